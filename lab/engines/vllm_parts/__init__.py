"""The parts of the vLLM engine: its environment, the conversion of a GGUF, its command line, its process, its counters."""
