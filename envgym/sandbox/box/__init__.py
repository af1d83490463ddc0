"""Boxes: one long-lived agent each, the channel to it, and the pool that shares them."""
