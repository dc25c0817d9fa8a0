"""How the device and the libraries behave: one row a rule, each with its source. Free of torch."""
