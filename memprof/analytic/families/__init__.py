"""Models as op programs, one file a family."""
