"""How much a molecule is like known ligands in shape and in what it presents to a protein."""
