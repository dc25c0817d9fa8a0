"""Frozen data: scenario, architecture, device, timeline, result. No behaviour beyond self-checks."""
