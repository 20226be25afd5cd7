"""A student and a VAE as model files, each checked against PyTorch before it is written."""
