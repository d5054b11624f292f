"""The other side of the load, each in a process of its own: the task service, and one replica.

`tasks` is as lean as the floor's own; `worker` is the same task on the SDK; `replica` is the service as `serve` runs it,
which also tells its counters.
"""

from __future__ import annotations

import argparse
import cProfile
from typing import Any

import nats
import orjson
import uvloop
from nats.aio.msg import Msg

from dwarf_nats.engine import Engine
from dwarf_nats.sdk import Worker
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings

from .children import converse, own_cpu, say
from .load import TASK


async def tasks(url: str, prefix: str) -> None:
    """One plain subscription."""
    nc = await nats.connect(url)

    async def answer(msg: Msg) -> None:
        state = orjson.loads(msg.data)["state"]
        await msg.respond(orjson.dumps({"changes": {"n": state["n"] + 1}}))

    await nc.subscribe(f"{prefix}.{TASK}", queue="q", cb=answer, pending_msgs_limit=1_000_000)
    await nc.flush()
    await converse(_cpu)
    await nc.close()


async def worker(url: str, prefix: str) -> None:
    """The same on the SDK."""
    serving = Worker(url, task_prefix=prefix, concurrency=1024)

    @serving.task(TASK)
    async def count(n: int) -> dict[str, int]:
        return {"n": n + 1}

    async with serving:
        await converse(_cpu)


async def _cpu(_question: dict[str, Any]) -> dict[str, float]:
    return {"cpu": own_cpu()}


async def one_replica(settings: ServerSettings, profile: str) -> None:
    """The service, drained at the end; its last line are its counters."""
    profiler = cProfile.Profile() if profile else None
    async with replica(settings) as engine:

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
    """What the committers wrote, in how many groups, and the CPU seconds so far."""
    committers = [shard.committer for shard in engine._shards.values()]
    return {
        "groups": sum(one.groups for one in committers),
        "members": sum(one.members for one in committers),
        "outages": sum(one.outages for one in committers),
        "cpu": own_cpu(),
    }


def main() -> None:
    """Serve the parent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("tasks", "worker", "replica"))
    parser.add_argument("--nats", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--task-prefix", default="task")
    parser.add_argument("--dsn", default="")
    parser.add_argument("--profile", default="")
    args = parser.parse_args()
    if args.what == "tasks":
        uvloop.run(tasks(args.nats, args.task_prefix))
    elif args.what == "worker":
        uvloop.run(worker(args.nats, args.task_prefix))
    else:
        settings = ServerSettings(
            dsns=[args.dsn],
            nats_url=args.nats,
            prefix=args.prefix,
            task_prefix=args.task_prefix,
            wait_for_servers=False,
        )
        uvloop.run(one_replica(settings, args.profile))


if __name__ == "__main__":
    main()
