"""Loops over rows that make the world as the database says it should be."""
