"""Orchestration: recipes, flows and the command."""
