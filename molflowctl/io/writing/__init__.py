"""How a library is written: unfinished until it is whole; and as plain texts."""
