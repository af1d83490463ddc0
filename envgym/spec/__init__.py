"""The environment's YAML: schema, loading, the catalog of environments, modules that it names."""
