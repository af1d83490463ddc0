"""Adapters for environments and data of other projects, one file per kind."""
