"""Who a session belongs to."""
