"""memprof: how much GPU memory a PyTorch or Hugging Face step will take, why, and what to change so that it fits."""

__version__ = "0.1.0"
