"""Predicted beside measured: real runs, the store of what they showed, and how far off each engine was."""
