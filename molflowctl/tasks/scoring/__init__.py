"""Score libraries, and find their best."""
