"""Whatever a task in this process raises fails its step and frees its worker slot (X4, X8)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.rules.steps import StepRef
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.status import Status
from tests.support.engines import SOON, Gate, line, shard_of

pytestmark = pytest.mark.slow


class Panic(BaseException):
    """No `Exception`."""


class Mute(Exception):
    def __str__(self) -> str:
        raise Panic("no text")


RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "panic": (lambda: Panic("unwrap"), "unwrap"),
    "keyboard interrupt": (KeyboardInterrupt, "KeyboardInterrupt"),
    "system exit": (lambda: SystemExit(3), "3"),
    "generator exit": (GeneratorExit, "GeneratorExit"),
    "cancelled": (asyncio.CancelledError, "cancelled from inside"),
    "mute": (Mute, "Mute"),
}


class RaisingTasks(TaskProxy):
    """A port `Tasks` of somebody else's: task `bad` raises out of `execute` itself."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        super().__init__()
        self.make = make

    async def execute(self, call: TaskCall) -> Answer:
        if call.url == "bad":
            raise self.make()
        return await super().execute(call)


@pytest.fixture
async def one_slot(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Engine, TaskProxy]]:
    proxy = RaisingTasks(request.param)
    settings = EngineSettings(workers=1, drain_ms=0)
    async with open_engine("sqlite://", tasks=proxy, graphs=proxy, settings=settings) as engine:
        yield engine, proxy


@pytest.mark.parametrize(
    ("one_slot", "text"), [(make, text) for make, text in RAISED.values()], ids=list(RAISED), indirect=["one_slot"]
)
async def test_what_the_port_raises_fails_the_step(one_slot: tuple[Engine, TaskProxy], text: str) -> None:
    engine, proxy = one_slot
    proxy.handle_task("good", lambda: {"ok": 1})
    outcome = await engine.run(line("w", "bad"), timeout=SOON)
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert text in outcome.error.message
    assert (await engine.run(line("w", "good"), timeout=SOON)).state == {"ok": 1}
    assert engine.replica.slots.in_use == 0


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "thread"])
@pytest.mark.parametrize("name", RAISED)
async def test_what_a_function_raises_fails_the_step(name: str, plain: bool) -> None:
    proxy = TaskProxy()

    async def waits() -> None:
        await asyncio.sleep(0)
        raise RAISED[name][0]()

    def runs() -> None:
        raise RAISED[name][0]()

    proxy.handle_task("bad", runs if plain else waits)
    proxy.handle_task("good", lambda: {"ok": 1})
    settings = EngineSettings(workers=1, drain_ms=0)
    async with open_engine("sqlite://", tasks=proxy, graphs=proxy, settings=settings) as engine:
        assert (await engine.run(line("w", "bad"), timeout=SOON)).status is Status.FAILED
        assert (await engine.run(line("w", "good"), timeout=SOON)).state == {"ok": 1}


async def test_a_step_cancelled_before_its_execution_began_frees_its_slot(dsn: str) -> None:
    """O10: an asyncio task that is cancelled before it begins never runs; the worker slot comes back all the same."""
    proxy = TaskProxy()
    gate = Gate()
    proxy.handle_task("gate", gate)
    proxy.handle_task("good", lambda: {"ok": 1})
    settings = EngineSettings(workers=1, drain_ms=0)
    async with open_engine(dsn, tasks=proxy, graphs=proxy, settings=settings) as engine:
        shard = shard_of(engine)
        dispatch = shard.executor.dispatch

        def dispatch_and_cancel(step: Any) -> None:
            dispatch(step)
            if step.url == "gate":
                shard.in_flight.cancel([StepRef(step.step_id, step.token)])  # in the same turn of the loop

        shard.executor.dispatch = dispatch_and_cancel  # type: ignore[method-assign]
        key = await engine.create_task("gate", start=True)
        await engine.cancel(key)
        assert (await engine.run(line("w", "good"), timeout=SOON)).state == {"ok": 1}
        assert gate.entered == 0


async def test_a_defect_after_a_commit_frees_the_slots_of_the_others(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails while the outcome of one step is told costs no slot and no other step's successor."""
    proxy = TaskProxy()
    proxy.handle_task("good", lambda: {"ok": 1})
    settings = EngineSettings(workers=1, drain_ms=0)
    async with open_engine(dsn, tasks=proxy, graphs=proxy, settings=settings) as engine:
        shard = shard_of(engine)
        stopped = shard.announcer.stopped

        def broken(*_: Any) -> Any:
            shard.announcer.stopped = stopped  # type: ignore[method-assign]
            raise RuntimeError("a defect")

        shard.announcer.stopped = broken  # type: ignore[method-assign]
        with caplog.at_level(logging.ERROR):
            first = await engine.create_task("good", start=True)
            assert (await engine.run(line("w", "good"), timeout=SOON)).state == {"ok": 1}
        assert (await engine.await_(first, SOON)).status is Status.COMPLETED
        assert engine.replica.slots.in_use == 0
    assert "a defect" in caplog.text


async def test_an_engine_that_starts_again_has_all_its_slots(tmp_path: Any) -> None:
    """B3: what a stop left unwritten holds no worker slot of the next start."""
    proxy = TaskProxy()
    proxy.handle_task("gate", Gate())
    proxy.handle_task("good", lambda: {"ok": 1})
    engine = open_engine(
        f"sqlite:///{tmp_path}/d.db", tasks=proxy, graphs=proxy, settings=EngineSettings(workers=1, drain_ms=0)
    )
    async with engine:
        await engine.create_task("gate", start=True)
        await asyncio.sleep(0)
    proxy.handle_task("gate", lambda: None)
    async with engine:
        assert (await engine.run(line("w", "good"), timeout=SOON)).state == {"ok": 1}


async def test_a_panic_of_the_engine_itself_fails_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of ours that panics while a step is decided on: the step fails, and does not run for ever."""
    proxy = TaskProxy()
    proxy.handle_task("good", lambda: {"ok": 1})

    def panics(*_: Any) -> Any:
        raise Panic("unwrap")

    async with open_engine(
        "sqlite://", tasks=proxy, graphs=proxy, settings=EngineSettings(workers=1, drain_ms=0)
    ) as engine:
        with monkeypatch.context() as patched:
            patched.setattr("dwarf_nats.engine.execution.executor.decide", panics)
            outcome = await engine.run(line("w", "good"), timeout=SOON)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert "Panic: unwrap" in outcome.error.message
        assert (await engine.run(line("w", "good"), timeout=SOON)).state == {"ok": 1}


class PanickingPorts:
    """Notices and signals of somebody else's, all of which panic."""

    def __getattr__(self, name: str) -> Any:
        def panics(*_: Any) -> None:
            raise Panic(name)

        return panics


async def test_ports_that_panic_while_they_are_told_stop_nothing() -> None:
    """B1, B4."""
    proxy = TaskProxy()
    proxy.handle_task("good", lambda: {"ok": 1})
    ports = PanickingPorts()
    settings = EngineSettings(workers=1, drain_ms=0)
    async with open_engine(
        "sqlite://", tasks=proxy, graphs=proxy, notices=ports, signals=ports, settings=settings
    ) as engine:
        for _ in range(3):
            assert (await engine.run(line("w", "good"), timeout=SOON)).state == {"ok": 1}
        assert engine.replica.slots.in_use == 0
        assert not engine.dead_jobs()
