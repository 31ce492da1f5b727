"""Train flows, and surrogates of slow properties."""
