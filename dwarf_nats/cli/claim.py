"""`dwarf-nats claim preview`: large values that a sweep would remove (B10)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from dwarf_nats.cli.command import command, new_app
from dwarf_nats.cli.options import Bus, Dsns, Service, given_dsns
from dwarf_nats.cli.output import Output
from dwarf_nats.cli.setting_options import default, option

if TYPE_CHECKING:
    from dwarf_nats.ports.values import BucketContents, StoredValue
    from dwarf_nats.store.store import SqlStore

SAMPLE = 20
"""Digests that are shown."""
app = new_app("Large values: what a sweep would remove.")


def register(root: typer.Typer) -> None:
    """Add the family to an app."""
    root.add_typer(app, name="claim")


@command(
    app,
    "preview",
    short="Large values that no row refers to.",
    example="dwarf-nats claim preview --claim-bucket dwarf-values --dsn postgresql://dwarf@db/dwarf",
)
async def preview(
    out: Output,
    bus: Bus,
    service: Service,
    dsn: Dsns = None,
    claim_bucket: Annotated[str, option("claim_bucket", help="The bucket of large values.")] = default("claim_bucket"),
    claim_grace_ms: Annotated[int, option("claim_grace_ms", min=0, help="Age from which a value may go.")] = default(
        "claim_grace_ms"
    ),
) -> None:
    """Say which large values a sweep would remove, and how long it reads; change nothing.

    Name all databases of the deployment: a value that only the rows of another one refer to looks unused. It reads all rows
    without pauses, as the user of the databases that replicas have, and needs their permissions for the bucket.
    """
    if not claim_bucket:
        raise typer.BadParameter("name the bucket: dwarf-values", param_hint="--claim-bucket")
    from dwarf_nats.bus.values import NatsValues
    from dwarf_nats.library import check_dsns

    dsns = given_dsns(dsn)
    check_dsns(dsns)
    async with service.client(bus) as client:
        await client.connect()
        contents = await NatsValues(client.nc, claim_bucket, claim_grace_ms / 1000).look()
    began = time.monotonic()
    unused = await _unused(contents, dsns)
    seconds = time.monotonic() - began
    sizes = sum(value.size for value in unused)
    reply = {
        "objects": contents.objects,
        "bytes": contents.bytes,
        "old": len(contents.old),
        "unused": len(unused),
        "unusedBytes": sizes,
        "leftovers": len(contents.leftovers),
        "seconds": round(seconds, 3),
        "sample": [value.digest for value in unused[:SAMPLE]],
    }
    out.show(
        reply,
        f"{contents.objects:,} values of {contents.bytes:,} bytes, {len(contents.old):,} older than the grace time",
        f"{len(unused):,} of them, of {sizes:,} bytes, are used by no row; read in {seconds:.1f} s",
        *(f"  {value.digest}, {value.size:,} bytes" for value in unused[:SAMPLE]),
        *([f"  and {len(unused) - SAMPLE:,} more"] if len(unused) > SAMPLE else []),
        *([f"{len(contents.leftovers):,} leftovers of uploads that were cut off"] if contents.leftovers else []),
    )


async def _unused(contents: BucketContents, dsns: list[str]) -> list[StoredValue]:
    """The old values that no row of the databases refers to."""
    from contextlib import AsyncExitStack

    from dwarf_nats.clock import SystemClock
    from dwarf_nats.engine.maintenance.claim_reading import ShardRows, spare_used
    from dwarf_nats.store.store import SqlStore

    unused = {value.digest: value for value in contents.old}
    async with AsyncExitStack() as stack:
        stores: list[SqlStore] = []
        for shard, dsn in enumerate(dsns, 1):
            store = SqlStore(shard, dsn, pool=2, clock=SystemClock())
            await store.open("dwarf-claims", migrated=True)
            stack.push_async_callback(store.close)
            stores.append(store)
        if unused:
            await spare_used(unused, [ShardRows(store.claims) for store in stores])
    return sorted(unused.values(), key=lambda value: -value.size)
