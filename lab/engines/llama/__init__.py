"""The low-level llama.cpp API as numpy sees it: weights, context, sampler, quantisation, importance matrix."""
