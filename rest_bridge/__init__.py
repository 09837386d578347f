"""What stands between HTTP and the control plane: Envoy's configuration and the proxy."""
