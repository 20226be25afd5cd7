"""The frozen diffusion model: loading, its families, and the calls that the scores need."""
