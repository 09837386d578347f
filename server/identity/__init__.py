"""Who a token belongs to: shared by the server and the proxy. No other part of the product is known here."""
