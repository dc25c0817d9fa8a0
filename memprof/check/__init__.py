"""Budgets for CI: the checks of a config, each scenario's bytes held against its limit and its baseline."""
