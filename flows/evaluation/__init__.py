"""How good a model is: on drawn scenes, on photographs, and beside zero-shot edits."""
