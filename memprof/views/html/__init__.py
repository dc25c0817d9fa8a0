"""Reports as one HTML file: ``page`` says what a report is made of, the modules beside it what a kind of value says.

``render(value)`` of ``document`` is the way in. A kind of value takes part by giving a ``Page``; all that a page holds
is plain text, numbers and Plotly figures, so that one template and one script draw every kind.
"""
