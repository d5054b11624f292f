"""Errors a task raises, and what the code of a failure means (wire section 2)."""

from __future__ import annotations

from typing import Any

from dwarf_nats.workflow.answer import Answer, Disposition, ErrorInfo
from dwarf_nats.workflow.task_exceptions import describe_error

MOST_CODE = 2**31 - 1
"""Largest error code; a larger number in an attribute `code` is ignored."""


class TaskError(Exception):
    """Raise it in a task to fail the step with a code and details of your own.

    `extra` travels in the error object, so an `on_error` handler finds it in `onErr` (X4). Code 429 asks the engine to
    slow down, 503 and 529 to hold the task's steps until it can serve again::

        raise TaskError("card declined", code=402, card="4242")
    """

    def __init__(self, message: str, code: int = 500, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.extra = extra


class SubgraphError(TaskError):
    """The child flow a task called failed (P1); the message is the child's error."""


class WaitTimeout(TaskError):
    """A task waited, and the deadline of its wait passed first (P6). Its code is 408."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 408)


def disposition_of(code: int) -> tuple[Disposition, str]:
    """The disposition of a failure with this code, and its cause."""
    if code == 429:
        return Disposition.BACKPRESSURE, "backpressure"
    if code == 503:
        return Disposition.BREAKER, "unavailable"
    if code == 529:
        return Disposition.BREAKER, "overloaded"
    return Disposition.ERROR, ""


def failure(error: ErrorInfo) -> Answer:
    """The answer that reports `error`, with the disposition its code asks for."""
    disposition, cause = disposition_of(error.code)
    return Answer(error=error, disposition=disposition, cause=cause)


def error_info(error: BaseException) -> ErrorInfo:
    """Convert an exception of a task to an error of its step. An integer attribute `code` of the exception is kept."""
    code = getattr(error, "code", None)
    known = (
        isinstance(code, int)
        and not isinstance(code, bool)
        and not isinstance(error, SystemExit)
        and -MOST_CODE <= code <= MOST_CODE
    )
    message = getattr(error, "message", None) if known else None
    if not isinstance(message, str):
        message = describe_error(error)
    extra = getattr(error, "extra", None)
    return ErrorInfo(
        message, code if known and code is not None else 500, dict(extra) if isinstance(extra, dict) else {}
    )
