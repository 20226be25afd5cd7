"""The training of a student: what it looks at, what it minimizes, its loop, its state on disk."""
