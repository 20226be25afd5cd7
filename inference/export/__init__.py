"""Students and VAEs into model files, each held to PyTorch's own answers."""
