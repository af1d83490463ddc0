"""Play tasks with a policy and report success rates with intervals; checks of environments."""
