"""The verbs that measure: students, zero-shot edits and the method itself."""
