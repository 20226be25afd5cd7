"""The embedded teacher: its drawn world, its training, its weights."""
