"""Renderings of a result: text, JSON. A view never computes."""
