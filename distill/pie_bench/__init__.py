"""PIE-Bench (Ju et al. 2024, arXiv 2310.01506): its folder, and its metrics as its authors compute them."""
