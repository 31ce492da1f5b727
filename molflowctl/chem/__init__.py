"""Molecules as graphs and as RDKit sees them: identity, stereo, hydrogens, ensembles, units."""
