"""Evaluate what a run made, and run zero-shot edits and studies."""
