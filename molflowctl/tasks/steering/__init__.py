"""Flows made of flows: finetune and merge, of molecules and of conformers."""
