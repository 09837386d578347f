"""The development engine: a small, honest stand-in for orch8-server, started as its own process."""
