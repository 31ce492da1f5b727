"""What is asked of a density: rewards, utilities, divergences, and their first variations."""
