"""Design around what is given: molecules of which a part is known."""
