"""The CUDA caching allocator, simulated byte for byte."""
