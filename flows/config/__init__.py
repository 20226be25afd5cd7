"""What to run: recipes, their schema and their TOML."""
