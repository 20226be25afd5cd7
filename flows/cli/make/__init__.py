"""The verbs that make a model file, from a new recipe to the upload of a finished run."""
