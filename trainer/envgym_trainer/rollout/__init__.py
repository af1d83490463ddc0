"""Collection of episodes: task sampling, groups, group rewards, curriculum."""
