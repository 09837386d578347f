"""The program that decides about every tunnel and gateway request."""
