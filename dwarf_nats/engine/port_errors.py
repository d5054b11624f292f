"""Errors that a port raises while it is told something."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dwarf_nats.workflow.task_exceptions import ends_process

if TYPE_CHECKING:
    from dwarf_nats.ports import Logger


@contextmanager
def suppress_port_errors(logger: Logger, what: str = "a notice or signal") -> Iterator[None]:
    """Log and suppress whatever a port raises: the flow goes on (B4). Only the end of the process passes."""
    try:
        yield
    except BaseException as error:
        if ends_process(error):
            raise
        logger.exception("%s was refused", what)
