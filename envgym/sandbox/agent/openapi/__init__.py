"""OpenAPI documents in the box: operations become tools over tables."""
