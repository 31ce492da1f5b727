"""Docking with AutoDock Vina: a receptor and its box, one ligand at a time, its poses."""
