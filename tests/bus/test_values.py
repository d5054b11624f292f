"""The bucket of large values on a real server, with the rights of the documentation: what is swept, and what stays (B10)."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import nats
import pytest
from typer.testing import CliRunner

from dwarf_nats.bus.connection import connect
from dwarf_nats.bus.values import NatsValues
from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.engine.maintenance.claim_sweep import ClaimSweep
from dwarf_nats.errors import BadRequest, NotFound
from dwarf_nats.sdk import END, ClaimChecks, Client, Graph, value_store
from dwarf_nats.sdk.value_store import ValueStore, digest_of
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.wire.connect_options import ConnectOptions
from tests.support.deployment import secured, url_of
from tests.support.engines import maintenance_of

if TYPE_CHECKING:
    from dwarf_nats.bus.connection import Connection

PAGE = Path(__file__).parents[2] / "docs" / "large-values.md"
BUCKET = "dwarf-values"
LARGE = "x" * 700_000
"""More than one chunk."""


def granted() -> str:
    """What the page says to add to the template of a replica."""
    block = PAGE.read_text().split("A replica with `--claim-bucket` needs", 1)[1].split("```")[1]
    return ", ".join(f'"{subject}"' for subject in re.findall(r"\$JS\S+", block))


async def previewed(url: str, dsn: str, folder: Path) -> list[str]:
    """What `claim preview` names, on a copy of the database, as the replica has the file itself."""
    copy = folder / "copy.db"
    with closing(sqlite3.connect(dsn.removeprefix("sqlite:///"))) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    where = ["--nats", url, "--dsn", f"sqlite:///{copy}", "--claim-bucket", BUCKET, "--claim-grace-ms", "0", "--json"]
    ran = await asyncio.to_thread(CliRunner().invoke, app, ["claim", "preview", *where])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert (found["objects"], found["old"], found["unused"], found["unusedBytes"]) == (3, 2, 1, len(b'"alone"'))
    assert found["bytes"] > len(LARGE)
    names: list[str] = found["sample"]
    return names


@pytest.mark.slow
async def test_the_sweep_on_a_real_bucket(
    tmp_path: Path, sqlite_dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """B10: a value goes with its flow; one in use, one written again, and one stored after a crash can be read."""
    config = secured(tmp_path, monkeypatch)
    rights = config.parent / "replica.conf"
    shipped = rights.read_text()
    rights.write_text(shipped.replace('"task.>", "graph.>"', f'"task.>", "graph.>", {granted()}', 1))
    graph = Graph("keep")
    graph.add_chain("a", END)
    async with NatsServer(config=config, jetstream=True) as server:
        options = ConnectOptions(url=url_of(server.url, "replica"), inbox_prefix="_INBOX.replica")
        settings = ServerSettings(dsns=[sqlite_dsn], connection=options, claim_bucket=BUCKET, wait_for_servers=False)
        root = await nats.connect(url_of(server.url, "root"))
        connection = await connect(options, "sweep", retry=False)
        async with (
            replica(settings) as engine,
            Client(url_of(server.url, "root"), claim_checks=ClaimChecks(2_000)) as client,
        ):
            values = NatsValues(connection, BUCKET, 0)
            assert await values.look() == ([], [], 0, 0)
            living = await client.create(graph, {"doc": LARGE})
            removed = await client.create(graph, {"doc": LARGE + "removed"})
            young = maintenance_of(engine).claim_sweep
            assert young is not None
            sweep = ClaimSweep(values, engine.replica)

            await client.delete(removed)
            with caplog.at_level("INFO"):
                await young.run_once()
                await young.run_once()
            assert "large values: 0 removed, 2 kept, of which 0 are to go" in caplog.text  # younger than the grace time
            await sweep.run_once()
            await sweep.run_once()
            [kept] = (await values.look()).old
            data = f'"{LARGE}"'.encode()
            assert kept.digest == digest_of(data)
            assert await ValueStore(BUCKET).get(root, kept.digest) == data

            # Written again between the look and the removal: it stays, and its old chunks are a leftover.
            monkeypatch.setattr(value_store, "FRESH_SECONDS", 0.0)
            await ValueStore(BUCKET).put(root, kept.digest, data)
            assert not await values.remove(kept)
            found = await values.look()
            assert found.leftovers == [kept.chunks]
            await sweep.run_once()
            assert (await values.look()).leftovers == []
            assert await ValueStore(BUCKET).get(root, kept.digest) == data

            # A crash after the chunks went: the entry promises what is not there, until the value is sent again.
            [again] = found.old
            await values.drop(again.chunks)
            with pytest.raises(NotFound):
                await ValueStore(BUCKET).get(root, again.digest)
            await ValueStore(BUCKET).put(root, again.digest, data)
            assert await ValueStore(BUCKET).get(root, again.digest) == data
            assert not await values.remove(again)

            # An object that is none of ours stays.
            store = await root.jetstream().object_store(BUCKET)
            await store.put("report.pdf", b"of somebody")
            await client.delete(living)
            await sweep.run_once()
            await sweep.run_once()
            left = await values.look()
            assert (left.old, left.leftovers, left.objects) == ([], [], 1)
            assert (await store.get("report.pdf")).data == b"of somebody"

            living = await client.create(graph, {"doc": LARGE + "more"})
            await ValueStore(BUCKET).put(root, digest_of(b'"alone"'), b'"alone"')
            [alone] = await previewed(url_of(server.url, "root"), sqlite_dsn, tmp_path)
            assert alone == digest_of(b'"alone"')
            assert (await values.look()).objects == 3  # nothing was removed
        await connection.close()
        await root.close()


def test_the_name_of_a_bucket_is_checked() -> None:
    """B10: before anything is asked."""
    with pytest.raises(BadRequest, match="claim_bucket has 1 to 64 of"):
        NatsValues(cast("Connection", None), "a.b", 0)
