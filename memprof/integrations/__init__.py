"""memprof inside other tools: thin, on top of the API."""
