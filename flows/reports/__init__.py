"""What a run shows to people: tables, plots, HTML pages and the model card."""
