"""Ways to put load on an engine: who asks when."""
