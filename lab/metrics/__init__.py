"""Metrics turn what was observed into numbers: pure functions of generations, logits and texts, one idea a file."""
