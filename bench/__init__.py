"""`make bench`: what the gateway costs, measured against bare Envoy in the same run, on the same machine."""
