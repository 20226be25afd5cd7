"""The embedded teacher: its networks, its training, its weights."""
