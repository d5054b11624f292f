"""`dwarf-nats shards`: the health of each shard (O16)."""

from __future__ import annotations

import typer

from dwarf_nats.cli.command import command
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output, table
from dwarf_nats.wire import messages as m


def register(app: typer.Typer) -> None:
    command(
        app,
        "shards",
        short="Per shard: does its database answer, what does it hold.",
        example="dwarf-nats shards --json",
    )(shards)


async def shards(out: Output, bus: Bus, service: Service) -> None:
    """Print per shard whether its database answers, how fast, and what it holds."""
    async with service.client(bus) as client:
        infos = await client.shard_info()
    reply = m.ShardInfoReply(
        shards=[
            m.Shard(shard=one.shard, error=one.error, latency_ms=one.latency_ms, flows=one.flows, steps=one.steps)
            for one in infos
        ]
    )
    rows = [
        (str(one.shard), one.error or "ok", f"{one.latency_ms:.1f} ms", str(one.flows), str(one.steps)) for one in infos
    ]
    out.show(reply, table(("shard", "health", "latency", "flows", "steps"), rows))
