"""Envoy, configured by code: one file for each Envoy concept."""
