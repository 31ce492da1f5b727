"""Data sets on disk, molecules and conformers, and where they come from."""
