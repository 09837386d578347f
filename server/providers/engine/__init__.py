"""The management side of engines: what the control plane asks them."""
