"""How edits are measured: against true counterfactuals, and where no truth is known."""
