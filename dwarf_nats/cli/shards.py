"""`dwarf-nats shards`: the health of each shard (O16)."""

from __future__ import annotations

import typer

from dwarf_nats.cli.command import command
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, table
from dwarf_nats.wire import messages as m
from dwarf_nats.wire.shards import shard_message
from dwarf_nats.workflow.records import ShardInfo


def register(app: typer.Typer) -> None:
    command(
        app,
        "shards",
        short="Per shard: does its database answer, what does it hold.",
        example="dwarf-nats shards --json",
    )(shards)


async def shards(out: Output, bus: Bus, service: Service) -> None:
    """Print per shard whether its database answers, how fast, and what it holds.

    A shard is "joining" until every replica was started with it: until then no new flows are placed there.
    """
    async with service.client(bus) as client:
        infos = await client.shard_info()
    reply = m.ShardInfoReply(shards=[shard_message(one) for one in infos])
    rows = [
        (
            str(one.shard),
            one.error or ("joining" if one.joining else "ok"),
            f"{one.latency_ms:.1f} ms",
            str(one.flows),
            str(one.steps),
            _waiting(one),
        )
        for one in infos
    ]
    out.show(reply, table(("shard", "health", "latency", "flows", "steps", "due, by priority"), rows))


def _waiting(shard: ShardInfo) -> str:
    """The steps that are due and not taken up: `10: 3, 100: 1000+`."""
    most = 1_000
    return (
        ", ".join(f"{one.priority}: {one.steps}{'+' if one.steps >= most else ''}" for one in shard.backlog) or "none"
    )
