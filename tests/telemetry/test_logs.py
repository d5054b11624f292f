"""Logs are silent by default, structured, correlated with spans, and hold keys in debug lines only (T3)."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import pytest

from dwarf_nats.cli.logs import JsonFormatter, LogFormat, LogLevel, TextFormatter, set_up
from dwarf_nats.library import open_engine
from dwarf_nats.ports import WorkerLost
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.answer import Answer, TaskCall
from dwarf_nats.workflow.graph import Graph
from tests.support.telemetry import WAIT, Spans, Watched, line, shown

KEY = re.compile(r"\d+-\d+-[A-Za-z0-9]{16}")
SILENT = """
import asyncio
from dwarf_nats.testing import workflow_engine
from dwarf_nats.workflow.graph import Graph

async def main():
    async with workflow_engine() as (engine, proxy):
        graph = Graph("w")
        graph.add_chain("t", "END")
        proxy.handle_graph(graph)
        proxy.handle_task("t", lambda flow: flow.goto("nowhere"))
        assert (await engine.run("w", {}, timeout=20)).status == "failed"
        engine.replica.logger.warning("something that is worth a warning")

asyncio.run(main())
"""


def _one() -> Graph:
    return line("one", "add")


class Losing(TaskProxy):
    """Its worker dies the first time."""

    async def execute(self, call: TaskCall) -> Answer:
        if not self.calls.get("lost"):
            self.calls["lost"] = 1
            raise WorkerLost("its worker was killed")
        return await super().execute(call)


class Kept(logging.Handler):
    """Keeps what it hears, as JSON."""

    def __init__(self, level: int = logging.DEBUG) -> None:
        super().__init__(level)
        self.setFormatter(JsonFormatter())
        self.lines: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def logger(kept: Kept) -> logging.Logger:
    """A host's own."""
    made = logging.Logger("host", logging.DEBUG)
    made.addHandler(kept)
    return made


def test_the_library_is_silent_by_default() -> None:
    """Not even the last resort of `logging` speaks."""
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


async def test_an_injected_logger_gets_everything_and_the_usual_one_nothing(
    dsn: str, logger: logging.Logger, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dwarf_nats.engine")
    proxy = Losing()
    proxy.handle_task("add", lambda: None)
    async with open_engine(dsn, tasks=proxy, logger=logger, settings=EngineSettings(drain_ms=0)) as engine:
        assert (await engine.run(_one(), {}, timeout=WAIT)).status == "completed"
    assert [one["message"] for one in kept.lines if one["level"] == "info"] == [
        "step 1-1 is given back: its worker was killed"
    ]
    assert not [record for record in caplog.records if record.name == "dwarf_nats.engine"]


async def test_lines_about_a_step_have_its_ids_as_fields(dsn: str, logger: logging.Logger, kept: Kept) -> None:
    proxy = Losing()
    proxy.handle_task("add", lambda: None)
    async with open_engine(dsn, tasks=proxy, logger=logger, settings=EngineSettings(drain_ms=0)) as engine:
        flow = (await engine.run(_one(), {}, timeout=WAIT)).flow_key
    told = next(one for one in kept.lines if one["level"] == "info")
    assert {name: told[name] for name in ("flow_id", "step_id", "workflow", "task")} == {
        "flow_id": shown(flow), "step_id": "1-1", "workflow": "one", "task": "add",
    }  # fmt: skip


async def test_keys_stand_in_debug_lines_only(dsn: str, logger: logging.Logger, kept: Kept) -> None:
    proxy = Losing()
    proxy.handle_task("add", lambda: None)
    async with open_engine(dsn, tasks=proxy, logger=logger, settings=EngineSettings(drain_ms=0)) as engine:
        flow = (await engine.run(_one(), {}, timeout=WAIT)).flow_key
        step = (await engine.history(flow))[0].step_key
    debug = [one for one in kept.lines if one["level"] == "debug"]
    others = [one for one in kept.lines if one["level"] != "debug"]
    assert not KEY.search(json.dumps(others))
    told = [str(one["message"]) for one in debug]
    assert told == [
        f"flow {flow} of workflow one is created",
        f"step {step} of flow {flow} goes to task add",
        f"step {step} of flow {flow}: given_back",
        f"step {step} of flow {flow} goes to task add",
        f"step {step} of flow {flow}: completed",
        f"flow {flow} is completed",
    ]
    assert [one.get("step_key") for one in debug] == [None, step, step, step, step, None]
    assert {one["flow_key"] for one in debug} == {flow}


async def test_lines_within_a_dispatch_name_its_span(sqlite_dsn: str, logger: logging.Logger, kept: Kept) -> None:
    proxy, spans = Losing(), Spans()
    proxy.handle_task("add", lambda: logger.info("from within the task"))
    engine = open_engine(
        sqlite_dsn, tasks=proxy, logger=logger, tracer_provider=spans.provider, settings=EngineSettings(drain_ms=0)
    )
    async with engine:
        await engine.run(_one(), {}, timeout=WAIT)
    lost, done = spans.ended("task")
    for message, span in (("step 1-1 is given back: its worker was killed", lost), ("from within the task", done)):
        told = next(one for one in kept.lines if one["message"] == message)
        context = span.get_span_context()
        assert (told["trace_id"], told["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert all("trace_id" not in one for one in kept.lines if "is created" in str(one["message"]))


async def test_debug_lines_can_be_asked_for_while_it_runs(timed: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """The engine looks at the level with every beat, not with every step."""
    await timed.run("line")
    caplog.set_level(logging.DEBUG, "dwarf_nats.engine")
    assert "is created" not in caplog.text
    for shard in timed.engine.shards.values():
        shard.debug_log.refresh()
    await timed.run("line")
    assert "is created" in caplog.text


@pytest.mark.parametrize(("level", "ours", "others"), [("debug", 10, 20), ("info", 20, 20), ("warning", 30, 30)])
def test_a_level_is_for_what_is_ours(level: str, ours: int, others: int) -> None:
    """Debug lines of everything else would bury ours."""
    root, own = logging.getLogger(), logging.getLogger("dwarf_nats")
    before = root.handlers[:], root.level, own.level
    try:
        set_up(LogFormat.JSON, LogLevel(level))
        assert (own.getEffectiveLevel(), root.getEffectiveLevel()) == (ours, others)
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        for handler in before[0]:
            root.addHandler(handler)
        root.setLevel(before[1])
        own.setLevel(before[2])


def test_a_traceback_and_the_fields_of_a_line_are_json() -> None:
    record = logging.makeLogRecord({"name": "n", "levelname": "ERROR", "levelno": 40, "msg": "no", "step_id": "1-2"})
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        record.exc_info = sys.exc_info()
    told = json.loads(JsonFormatter().format(record))
    assert (told["step_id"], told["message"], told["level"]) == ("1-2", "no", "error")
    assert "RuntimeError: boom" in told["traceback"]


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter("%(message)s")])
def test_a_key_that_somebody_put_into_an_error_is_not_published(formatter: logging.Formatter) -> None:
    """Not in the text, not in a field, not in a traceback; in debug lines it stays."""
    key = "1-42-a1B2c3D4e5F6g7H8"
    record = logging.makeLogRecord({"name": "n", "msg": f"no money for {key}", "detail": key, "levelno": logging.INFO})
    try:
        raise RuntimeError(f"no money for {key}")
    except RuntimeError:
        record.exc_info = sys.exc_info()
    line = formatter.format(record)
    assert "1-42" in line
    assert "a1B2c3D4e5F6g7H8" not in line
    record.levelno = logging.DEBUG
    assert key in formatter.format(record)
