"""The training of a run's student: the loop, its log, early stopping, and several processes."""
