"""Many sequences in one batch: the step loop that serves them, on any engine core."""
