"""Plotly figures as plain data. Colours that begin with ``@`` name a CSS variable: light and dark share a figure."""
