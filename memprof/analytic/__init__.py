"""The analytic engine: a symbolic step written from the dimensions of an architecture; needs no torch."""
