"""Datasets of painted images or photographs: what is painted, how, and where it lies."""
