"""Facts with sources: models, devices, and how a name is resolved."""
