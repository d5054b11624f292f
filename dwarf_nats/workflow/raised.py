"""What a task raised: how to say it, and when it is not the task's own."""

from __future__ import annotations

import asyncio
import signal
import threading


def text_of(error: BaseException) -> str:
    """The text of an exception. Its own `__str__` may fail: then it has none."""
    try:
        return str(error)
    except BaseException:
        return ""


def named(error: BaseException) -> str:
    """Type and text of an exception: `ValueError: no such card`."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def ends_process(error: BaseException) -> bool:
    """Whether this is Ctrl-C, not a `KeyboardInterrupt` that a task raised itself.

    Where the interpreter's own handler is in force the two cannot be told apart in the main thread: then it is Ctrl-C.
    Where the host has a handler of its own, only what that handler raised is.
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
    """Whether the coroutine that `task` runs is being closed, so that it must end and may not wait for anything."""
    if not isinstance(error, GeneratorExit):
        return False
    try:
        return asyncio.current_task() is not task
    except RuntimeError:  # no loop runs
        return True


def called_off(task: asyncio.Task[object] | None) -> bool:
    """Whether somebody cancelled `task`. If not, a `CancelledError` in it is the task function's own."""
    return task is None or task.cancelling() > 0
