"""Draw a library from a flow."""
