"""The Delta Denoising Score, and the students distilled with it."""
