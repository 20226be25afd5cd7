"""The studies of the paper's supplement, each as rows, a figure drawn from the rows alone, and what it shows.

A study is a module-level dataclass with

    units()         the pieces of its work, each a dict of JSON values, so that it can be stopped and gone on with
    measure(...)    a piece -> rows of numbers, text, lists of numbers and PNG bytes
    figure(rows)    -> an image
    finding(rows)   -> one or two sentences

and nothing in `figure` or `finding` looks at anything but the rows. `flows.evaluation.studies` runs them.
"""
