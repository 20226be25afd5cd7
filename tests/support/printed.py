"""What is printed past `sys.stdout`, too: by other processes, and by libraries in C."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def printed() -> Iterator[Callable[[], str]]:
    """Yield a function that returns what came to file descriptors 1 and 2 within the block."""
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        kept = {number: os.dup(number) for number in (1, 2)}

        def so_far() -> str:
            file.seek(0)
            return file.read()

        try:
            for number in kept:
                os.dup2(file.fileno(), number)
            yield so_far
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
