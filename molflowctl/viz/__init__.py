"""Pictures of molecules and of their properties, and pages that show them."""
