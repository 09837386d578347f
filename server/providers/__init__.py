"""The outside world: each thing a Protocol, the real one, and an honest one for development."""
