"""Templates in files."""
