"""Frozen data: what a scenario, an architecture, a device, a timeline and a result are. No behaviour beyond self-checks."""
