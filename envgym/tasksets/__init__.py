"""Task sets: tasks from templates, and readers of data files."""
