"""Exceptions of tasks: their text, and the cases in which they do not come from the task."""

from __future__ import annotations

import asyncio
import signal
import threading


def error_text(error: BaseException) -> str:
    """The text of an exception; empty if its `__str__` fails."""
    try:
        return str(error)
    except BaseException:
        return ""


def describe_error(error: BaseException) -> str:
    """Type and text of an exception: `ValueError: no such card`."""
    text = error_text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def ends_process(error: BaseException) -> bool:
    """True for Ctrl-C, false for a `KeyboardInterrupt` that a task raised itself.

    With the interpreter's own signal handler, the two cannot be told apart in the main thread, and count as Ctrl-C. With
    another handler, only a `KeyboardInterrupt` that this handler raised does.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_name == "_on_sigint"  # asyncio.Runner: the second Ctrl-C


def closes_coroutine(error: BaseException, task: asyncio.Task[object] | None) -> bool:
    """True if the coroutine of `task` is being closed, so that it must end and must not await anything."""
    if not isinstance(error, GeneratorExit):
        return False
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # no loop runs
        return True


def was_cancelled(task: asyncio.Task[object] | None) -> bool:
    """True if `task` was cancelled. If not, a `CancelledError` in it was raised by the task function."""
    return task is None or task.cancelling() > 0
