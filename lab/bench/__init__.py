"""Benches: our speed and memory beside a peer's in one run, printed as ratios. `lab bench NAME [--json FILE]`."""
