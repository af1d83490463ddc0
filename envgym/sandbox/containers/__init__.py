"""Container engines: finding one, images, and ownership of containers."""
