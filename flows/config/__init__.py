"""What to run: the recipe's schema, how it is loaded, and what it may be trusted with."""
