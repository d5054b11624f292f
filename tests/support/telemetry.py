"""What the tests of telemetry share: a reader of metrics, a keeper of spans, and graphs to make them move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dwarf_nats.engine import Engine
from dwarf_nats.library import open_engine
from dwarf_nats.settings import EngineSettings
from dwarf_nats.testing import TaskProxy
from dwarf_nats.workflow.flow import Flow
from dwarf_nats.workflow.graph import Graph
from dwarf_nats.workflow.task_error import TaskError

WAIT = 20.0
"""Seconds no test should ever need."""
Points = dict[tuple[str, ...], float]


class Heard:
    """A provider of meters, and what they say."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def collect(self) -> dict[str, Any]:
        """The metrics of one collection, by name."""
        data = self._reader.get_metrics_data()
        return {
            metric.name: metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            if scope.scope.name == "dwarf_nats"
            for metric in scope.metrics
        }

    def points(self, name: str) -> Points:
        """A metric's values by those of its labels, in the order of their names; of a histogram how many it has seen."""
        metric = self.collect().get(name)
        found: Points = {}
        for point in metric.data.data_points if metric is not None else ():
            labels = tuple(str(point.attributes[one]) for one in sorted(point.attributes))
            found[labels] = getattr(point, "count", None) if hasattr(point, "count") else point.value
        return found


class Spans:
    """A provider of tracers, and the spans that ended."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))

    def ended(self, name: str = "", **attributes: object) -> list[ReadableSpan]:
        """The spans of a name with these attributes (`flow_id`: of `dwarf.flow_id`), in the order of their end."""
        return [
            span
            for span in self._kept.get_finished_spans()
            if (not name or span.name == name)
            and all((span.attributes or {}).get(f"dwarf.{key}") == value for key, value in attributes.items())
        ]

    def one(self, name: str, **attributes: object) -> ReadableSpan:
        """The only one."""
        found = self.ended(name, **attributes)
        assert len(found) == 1, (name, attributes, [(span.name, dict(span.attributes or {})) for span in self.ended()])
        return found[0]


def parent_of(span: ReadableSpan) -> int | None:
    """The id of its parent."""
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def trace_of(span: ReadableSpan) -> int:
    return span.get_span_context().trace_id


def links_of(span: ReadableSpan) -> list[int]:
    """The ids of the spans it is linked to."""
    return [link.context.span_id for link in span.links]


@dataclass(slots=True)
class Watched:
    """An engine, what it runs, and what its metrics and spans say."""

    engine: Engine
    proxy: TaskProxy
    heard: Heard
    spans: Spans

    async def run(self, workflow: str, state: dict[str, Any] | None = None) -> str:
        """Run a flow until it stops; its token-free id."""
        return shown((await self.engine.run(workflow, state or {}, timeout=WAIT)).flow_key)

    async def read(self) -> None:
        """Read the gauges, as the engine does by itself now and then."""
        await self.engine._lifecycle.gauges.read()


@asynccontextmanager
async def watched(dsn: str, proxy: TaskProxy, **more: Any) -> AsyncIterator[Watched]:
    """A started engine, and what its metrics and spans say."""
    heard, spans = Heard(), Spans()
    settings = EngineSettings(drain_ms=0, **more.pop("settings", {}))
    engine = open_engine(
        dsn,
        tasks=proxy,
        graphs=proxy,
        settings=settings,
        meter_provider=heard.provider,
        tracer_provider=spans.provider,
        **more,
    )
    async with engine:
        yield Watched(engine, proxy, heard, spans)


def shown(key: str) -> str:
    """The token-free id of a key."""
    return key.rsplit("-", 1)[0]


def line(name: str, *nodes: str) -> Graph:
    graph = Graph(name)
    graph.add_chain(*nodes, "END")
    return graph


def graphs() -> TaskProxy:
    """Flows of every shape, and tasks of every way to end."""
    proxy = TaskProxy()
    for name in ("line", "bad", "shaky", "asking", "calling", "busy", "away"):
        proxy.handle_graph(line(name, *{"line": ("add", "add2")}.get(name, (name,))))
    wide = Graph("wide")
    wide.add_fan_out("add", "left", "right")
    for side in ("left", "right"):
        wide.add_transition(side, "join")
    wide.set_fan_in("join")
    wide.add_transition("join", "END")
    proxy.handle_graph(wide)
    for url in ("add", "add2", "left", "right", "join"):
        proxy.handle_task(url, lambda n=0: {"n": n + 1})
    proxy.handle_task("bad", _bad)
    proxy.handle_task("shaky", _shaky)
    proxy.handle_task("asking", lambda flow: {"said": flow.interrupt({"please": "say"})})
    proxy.handle_task("calling", lambda flow: {"child": flow.subgraph("line", {})})
    return proxy


def _bad() -> None:
    raise TaskError("no money", code=402)


def _shaky(flow: Flow) -> None:
    if flow.attempt == 0:
        flow.retry(max_attempts=2, initial_delay=0)
        raise TaskError("try again")


class Held:
    """A task that says when it began and goes on when told."""

    def __init__(self) -> None:
        self.began = asyncio.Semaphore(0)
        self.release = asyncio.Event()

    async def __call__(self) -> dict[str, bool]:
        self.began.release()
        await self.release.wait()
        return {"held": True}

    async def entered(self, times: int = 1) -> None:
        async with asyncio.timeout(WAIT):
            for _ in range(times):
                await self.began.acquire()


async def until(condition: Callable[[], bool], engine: Engine | None = None) -> None:
    """Let things happen until a condition holds: turns of the loop, with a round trip to the database if there is an engine."""
    async with asyncio.timeout(WAIT):
        while not condition():
            if engine is not None:
                await engine.shard_info()
            await asyncio.sleep(0)
