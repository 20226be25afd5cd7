"""The drawn world: scenes with true counterfactuals, and the readers that judge edits of them."""
