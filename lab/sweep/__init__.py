"""Sweeps: one experiment at many points of its fields, each a run of its own under one sweep, here or on Ray.

The store is the only memory: what is finished, what failed and what Optuna has learnt is read from the runs, so that a
killed sweep goes on where it was, on whichever machine it is started again.
"""
