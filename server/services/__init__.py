"""The use cases, one file for each proto service."""
