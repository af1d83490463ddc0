"""Sessions with processes of their own: the fork server, its children and its judges."""
