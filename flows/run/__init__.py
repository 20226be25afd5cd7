"""A run folder on disk: its layout, remote copy, promotion, retention and pilot."""
