"""Conformers of given molecules."""
