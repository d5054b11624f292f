"""`dwarf-nats shard …`: which shards take new flows (O17)."""

from __future__ import annotations

from typing import Annotated

import typer

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.options import Bus, Service
from dwarf_nats.cli.output import Output
from dwarf_nats.cli.shards import show_shards

app = new_app("Shards: say which take new flows.")


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="shard")


@command(
    app,
    "put",
    example="dwarf-nats shard put 1 --cordon\ndwarf-nats shard put 2 --weight 3\ndwarf-nats shard put 1 --no-cordon",
)
async def put(
    out: Output,
    bus: Bus,
    service: Service,
    number: Annotated[int, typer.Argument(metavar="SHARD", min=1, help="Its number.")],
    cordoned: Annotated[
        bool | None, typer.Option("--cordon/--no-cordon", help="Whether it takes no new flows.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(min=0.001, max=1000, help="Its share of new flows, beside those of the others.")
    ] = None,
) -> None:
    """Say whether a shard takes new flows, and its share of them, and print all shards.

    What is not given stays as it is. A cordoned shard goes on with the flows it has, so it drains by itself.
    """
    async with service.client(bus) as client:
        await client.put_shard(number, cordoned=cordoned, weight=weight)
        infos = await client.shard_info()
    show_shards(out, infos)
