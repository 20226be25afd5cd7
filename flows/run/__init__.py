"""A run folder on disk: its layout, its remote copy, promotion and retention."""
