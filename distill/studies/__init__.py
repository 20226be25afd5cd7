"""The studies of the paper's supplement, and the ablations: each as rows, a plot drawn from the rows, and a finding.

A study is a module-level dataclass with

    units()         the pieces of its work, each a dict of JSON values, so that it can be stopped and resumed
    measure(...)    a piece -> rows of numbers, text, lists of numbers and PNG bytes
    plot(rows)      -> an image
    finding(rows)   -> one or two sentences

`plot` and `finding` look at nothing but the rows. `flows.evaluation.studies` runs them.
"""
