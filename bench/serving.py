"""The other side of the load, each in a process of its own: the task service, and one replica.

`tasks` is as lean as the floor's own; `worker` is the same task on the SDK; `replica` is the service as `serve` runs it,
which also tells its counters.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nats
import orjson
import uvloop
from nats.aio.msg import Msg
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from dwarf_nats.collector import collect_seldom
from dwarf_nats.engine import Engine
from dwarf_nats.sdk import Worker
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings

from .children import converse, own_cpu, say
from .shapes import ADD, HOLD, ONE, TURN, add, one, turn

TELEMETRY = ("off", "metrics", "all")


async def tasks(url: str, prefix: str) -> None:
    """Plain subscriptions. `{"release": true}` answers what is held; every answer says how many are."""
    nc = await nats.connect(url)
    held: list[Msg] = []

    async def serve(task: str, changes: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        async def answer(msg: Msg) -> None:
            await msg.respond(orjson.dumps({"changes": changes(orjson.loads(msg.data)["state"])}))

        await nc.subscribe(f"{prefix}.{task}", queue="q", cb=answer, pending_msgs_limit=1_000_000)

    async def hold(msg: Msg) -> None:
        held.append(msg)

    async def tell(question: dict[str, Any]) -> dict[str, float]:
        if question.get("release"):
            for msg in held:
                await msg.respond(orjson.dumps({"changes": add(orjson.loads(msg.data)["state"])}))
            held.clear()
        return {"cpu": own_cpu(), "held": len(held)}

    for task, changes in ((ADD, add), (ONE, one), (TURN, turn)):
        await serve(task, changes)
    await nc.subscribe(f"{prefix}.{HOLD}", queue="q", cb=hold)
    await nc.flush()
    await converse(tell)
    await nc.close()


async def worker(url: str, prefix: str) -> None:
    """The same on the SDK, all but the held one."""
    serving = Worker(url, task_prefix=prefix, concurrency=1024)

    @serving.task(ADD)
    async def count(n: int) -> dict[str, int]:
        return {"n": n + 1}

    @serving.task(ONE)
    async def count_one() -> dict[str, int]:
        return {"n": 1}

    @serving.task(TURN)
    async def count_and_turn(n: int, text: str) -> dict[str, Any]:
        return turn({"n": n, "text": text})

    async with serving:
        collect_seldom()  # as `worker.main()` and `dwarf-nats worker` do
        await converse(_cpu)


async def _cpu(_question: dict[str, Any]) -> dict[str, float]:
    return {"cpu": own_cpu()}


class Nowhere(SpanExporter):
    """Takes spans, in batches as a collector would."""

    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def providers(telemetry: str) -> dict[str, Any]:
    """The metrics that a replica records into, collected as often as a collector would have it."""
    if telemetry == "off":
        return {}
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=io.StringIO()), export_interval_millis=15_000)
    recorded: dict[str, Any] = {"meter_provider": MeterProvider([reader])}
    if telemetry == "all":
        recorded["tracer_provider"] = tracers = TracerProvider()
        tracers.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=100_000))
    return recorded


async def one_replica(settings: ServerSettings, profile: str, telemetry: str = "off") -> None:
    """The service, drained at the end; its last line are its counters."""
    profiler = cProfile.Profile() if profile else None
    async with replica(settings, **providers(telemetry)) as engine:
        collect_seldom()

        async def answer(_question: dict[str, Any]) -> dict[str, float]:
            return counters(engine)

        if profiler is not None:
            profiler.enable()
        await converse(answer)
        if profiler is not None:
            profiler.disable()
            profiler.dump_stats(profile)
    say(counters(engine))


def counters(engine: Engine) -> dict[str, float]:
    """The steps that the committers wrote, their groups, the requests to the databases, and the CPU seconds so far."""
    committers = [shard.committer for shard in engine.shards.values()]
    databases = [getattr(shard.store, "database", None) for shard in engine.shards.values()]
    return {
        "groups": sum(one.groups for one in committers),
        "members": sum(one.members for one in committers),
        "outages": sum(one.outages for one in committers),
        "transactions": sum(getattr(one, "transactions", 0) for one in databases),
        "round_trips": sum(getattr(one, "round_trips", 0) for one in databases),
        "cpu": own_cpu(),
        "rss_kib": rss_kib(),
        "tasks": len(asyncio.all_tasks()),
    }


def rss_kib() -> int:
    """Memory of this process, 0 where there is no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        return 0


def main() -> None:
    """Serve the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("tasks", "worker", "replica"))
    parser.add_argument("--nats", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--task-prefix", default="task")
    parser.add_argument("--dsn", action="append", default=[], help="one for each shard")
    parser.add_argument("--profile", default="")
    parser.add_argument("--telemetry", choices=TELEMETRY, default="off")
    args = parser.parse_args()
    if args.what == "tasks":
        uvloop.run(tasks(args.nats, args.task_prefix))
    elif args.what == "worker":
        uvloop.run(worker(args.nats, args.task_prefix))
    else:
        settings = ServerSettings.of(
            dsns=args.dsn,
            nats_url=args.nats,
            prefix=args.prefix,
            task_prefix=args.task_prefix,
            wait_for_servers=False,
        )
        uvloop.run(one_replica(settings, args.profile, args.telemetry))


if __name__ == "__main__":
    main()
