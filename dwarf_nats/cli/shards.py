"""`dwarf-nats shards`: the health of each shard (O16)."""

from __future__ import annotations

from collections.abc import Sequence

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

    "new flows" is the share of new flows that it gets, beside the shares of the others. A shard is "joining" until every
    replica was started with it, and "cordoned" by `shard put --cordon`: then it gets none.
    """
    async with service.client(bus) as client:
        infos = await client.shard_info()
    show_shards(out, infos)


def show_shards(out: Output, infos: Sequence[ShardInfo]) -> None:
    """Print the shards."""
    reply = m.ShardInfoReply(shards=[shard_message(one) for one in infos])
    rows = [
        (
            str(one.shard),
            one.error or ("joining" if one.joining else "cordoned" if one.cordoned else "ok"),
            "none" if one.cordoned or one.joining else f"{one.weight:g}",
            f"{one.latency_ms:.1f} ms",
            str(one.flows),
            str(one.steps),
            _waiting(one),
        )
        for one in infos
    ]
    out.show(reply, table(("shard", "health", "new flows", "latency", "flows", "steps", "due, by priority"), rows))


def _waiting(shard: ShardInfo) -> str:
    """The steps that are due and not taken up: `10: 3, 100: 1000+`."""
    most = 1_000
    return (
        ", ".join(f"{one.priority}: {one.steps}{'+' if one.steps >= most else ''}" for one in shard.backlog) or "none"
    )
