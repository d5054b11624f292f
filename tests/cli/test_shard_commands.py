"""Shards from the command line: cordon, weights, and a database that is replaced by a larger one (O17)."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dwarf_nats.dev_servers import NatsServer
from tests.cli.conftest import Run

GRAPH = """
name: stamp
tasks: [{name: stamp, set: {done: true}}]
transitions: [{from: stamp, to: END}]
"""
PREFIX = ("--prefix", "shardcommands")


@contextmanager
def serving(nats: NatsServer, *databases: Path) -> Iterator[None]:
    """A replica with these databases, ready when this begins and gone when it ends."""
    command = [sys.executable, "-m", "dwarf_nats.cli.main", "serve", "--nats", nats.url, *PREFIX]
    for database in databases:
        command += ["--dsn", f"sqlite:///{database}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serve:
        assert serve.stderr is not None
        said = iter(serve.stderr.readline, "")
        try:
            assert any("is ready" in line for line in said)
            yield
        finally:
            serve.send_signal(signal.SIGTERM)
            for _ in said:
                pass
        assert serve.wait(30) == 0


def test_o17_a_database_is_cordoned_drained_and_replaced_by_a_larger_one(
    run: Run, nats_server: NatsServer, tmp_path: Path
) -> None:
    """O17: the steps of the runbook, over NATS; keys and flows of the old database are found to the end."""
    old, second, small, new = (tmp_path / f"{name}.db" for name in ("old", "second", "small", "new"))
    graph = tmp_path / "stamp.yaml"
    graph.write_text(GRAPH)

    def told(*arguments: str, code: int = 0) -> Any:
        result = run(*arguments, "--json", "--nats", nats_server.url, *PREFIX)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if not code else result.output

    def made(number: int) -> dict[str, str]:
        """Flows by idempotency key, which have all completed."""
        keys = [f"{number}-{place}" for place in range(12)]
        return {key: told("flow", "run", "stamp", "--idempotency-key", key)["flowKey"] for key in keys}

    def shards() -> list[tuple[int, bool, float]]:
        return [(one["shard"], one.get("cordoned", False), one.get("weight", 1.0)) for one in told("shards")["shards"]]

    def shards_of(flows: dict[str, str]) -> set[str]:
        return {key.split("-")[0] for key in flows.values()}

    with serving(nats_server, old, second):
        told("graph", "put", str(graph))
        first = made(1)
        assert shards_of(first) == {"1", "2"}
        told("shard", "put", "1", "--cordon")
        told("shard", "put", "2", "--weight", "3")
        assert shards() == [(1, True, 1.0), (2, False, 3.0)]
        assert "cordoned" in run("shards", "--nats", nats_server.url, *PREFIX).stdout
        assert "leave one of them open" in told("shard", "put", "2", "--cordon", code=1)
        assert "there is no shard 3" in told("shard", "put", "3", "--cordon", code=1)
        while_cordoned = made(2)
        assert shards_of(while_cordoned) == {"2"}
        assert told("flow", "list", "--shard", "1", "--status", "running")["flows"] == []
    shutil.copy(old, small)
    with serving(nats_server, small, second, new):
        assert shards() == [(1, True, 1.0), (2, False, 3.0), (3, False, 1.0)]
        assert {**made(1), **made(2)} == {**first, **while_cordoned}
        told("shard", "put", "2", "--weight", "0.001")
        after = [told("flow", "run", "stamp")["flowKey"].split("-")[0] for _ in range(10)]
        assert set(after) <= {"2", "3"}
        assert "3" in after
        told("shard", "put", "1", "--no-cordon")
        assert shards()[0] == (1, False, 1.0)
    refused = subprocess.run(
        [sys.executable, "-m", "dwarf_nats.cli.main", "serve", "--nats", nats_server.url, *PREFIX]
        + [part for one in (tmp_path / "empty.db", second, new) for part in ("--dsn", f"sqlite:///{one}")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert "empty.db" in refused.stderr
