"""`orch8-cloud doctor`: checks a configuration before it goes live, and says what to fix."""
