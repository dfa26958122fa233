"""Routes of the server's own API."""
