"""What a run will take and whether its edits can work, before it starts."""
