"""The training of a pixel network: it learns what a student makes of images, in one pass on pixels."""
