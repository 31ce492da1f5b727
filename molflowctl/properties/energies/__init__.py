"""Energies and their gradients: GFN-xTB, and MMFF94 for whole batches."""
