"""Parameter layouts: which parameters a family of models has, by name and shape, from its config."""
