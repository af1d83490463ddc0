"""OpenAPI documents on the host: reading them, and live calls to a real server."""
