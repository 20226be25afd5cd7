"""Send the project's log lines to the flow run that wrote them, or to the terminal."""

import logging
import os
import sys

from tqdm import tqdm

WARNING = "warning: "
"""What a warning begins with in the terminal, and in the log of a process that works for a flow."""
_PACKAGES = ("flows", "inference", "distill", "synth")


def show_logs() -> None:
    """Show the lines of the project's loggers from INFO on. The loggers of other libraries stay as they are."""
    for package in _PACKAGES:
        logger = logging.getLogger(package)
        if not any(isinstance(handler, _RunOrTerminal) for handler in logger.handlers):
            logger.addHandler(_RunOrTerminal())
        logger.setLevel(logging.INFO)
        logger.propagate = False  # Prefect's root handler would print every line again


class _RunOrTerminal(logging.Handler):
    """Write records to the flow run's log, or to the terminal outside a run or where that log is off."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        run_logger = _run_logger()
        if run_logger is not None and run_logger.isEnabledFor(record.levelno):
            run_logger.log(record.levelno, message)
            return
        prefix = WARNING if record.levelno >= logging.WARNING else ""
        try:
            tqdm.write(f"{prefix}{message}")  # prints above the progress bars
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has read enough: that must not cost a run its work
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_logger() -> "logging.Logger | logging.LoggerAdapter[logging.Logger] | None":
    # Do not import Prefect here: it reads its settings on import, and `environment.prepare` may not have made them.
    if "prefect" not in sys.modules:
        return None
    from prefect.exceptions import MissingContextError
    from prefect.logging import get_run_logger

    try:
        return get_run_logger()
    except MissingContextError:
        return None
