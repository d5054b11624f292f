"""When a `KeyboardInterrupt` is Ctrl-C, and what an exception says."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.arguments import run_task
from dwarf_nats.workflow.state import Raw
from dwarf_nats.workflow.task_exceptions import describe_error, ends_process, error_text

CALL = TaskCall(
    flow_key="1-1-a",
    step_key="1-1-a",
    workflow="w",
    task="t",
    url="t",
    attempt=0,
    state={},
    baggage=Raw(b"null"),
    flow_created_at=0,
    flow_updated_at=0,
    deadline=0,
    budget=60.0,
)


def raised_by(function: object) -> KeyboardInterrupt:
    try:
        function()  # type: ignore[operator]
    except KeyboardInterrupt as error:
        return error
    raise AssertionError


def task_function() -> None:
    raise KeyboardInterrupt


def _on_sigint() -> None:
    """Named as the handler of `asyncio.Runner`."""
    raise KeyboardInterrupt


def test_ctrl_c_is_told_from_what_a_task_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the process, whoever is executing."""
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    assert ends_process(raised_by(task_function))
    assert not ends_process(SystemExit(1))
    monkeypatch.setattr(signal, "getsignal", lambda _: _on_sigint)
    assert not ends_process(raised_by(task_function))
    assert ends_process(raised_by(_on_sigint))


def test_an_interrupt_raised_in_a_thread_is_never_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(ends_process(raised_by(task_function))))
    thread.start()
    thread.join()
    assert seen == [False]


async def test_ctrl_c_passes_through_a_task_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def waits() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        await run_task(waits, CALL)
    assert await run_task(task_function, CALL) == Answer(  # in a thread
        error=(await run_task(task_function, CALL)).error
    )


async def test_a_coroutine_that_is_closed_ends() -> None:
    """A closed coroutine may not go on: Python raises `RuntimeError` if it waits once more."""

    async def waits() -> None:
        await asyncio.sleep(0)

    coroutine = run_task(waits, CALL)
    coroutine.send(None)
    coroutine.close()


def test_the_text_of_an_exception_that_has_none() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

    assert (error_text(Mute()), describe_error(Mute())) == ("", "Mute")
    assert describe_error(ValueError("x")) == "ValueError: x"
