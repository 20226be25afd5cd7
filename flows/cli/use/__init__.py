"""The verbs that change images, by a model file or by text alone, and that show what a model file is."""
