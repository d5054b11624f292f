"""TLS, mutual TLS, credentials files, nkeys and contexts: replica, worker and client on real servers (wire section 6)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
import pytest
from typer.testing import CliRunner

from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer
from dwarf_nats.errors import Unavailable
from dwarf_nats.sdk import Client, Worker
from dwarf_nats.server import replica
from dwarf_nats.settings import ServerSettings
from dwarf_nats.wire.connect_options import ConnectArguments
from dwarf_nats.wire.credentials import credentials_in
from dwarf_nats.workflow.graph import END, Graph
from tests.support.deployment import TEMPLATES, USERS, secured
from tests.support.identities import Authority, Identity, Operator

ROLES = {"replica": "replica.conf", "billing": "task-service.conf", "shop": "caller.conf"}
How = Callable[[str], ConnectArguments]
"""What a role connects with."""


@dataclass
class Way:
    """A server's configuration, how the roles connect to it, and how somebody is refused."""

    config: str
    right: How
    wrong: How
    refusal: str
    """What is said then. Under TLS 1.3 a client may learn of its bad certificate by the loss of the connection only."""


def permissions(role: str) -> str:
    return f"permissions: {{\n{(TEMPLATES / ROLES[role]).read_text()}\n}}"


def encrypted(folder: Path) -> Way:
    """The server shows a certificate; the client knows its authority."""
    ours, strangers = Authority(folder), Authority(_sub(folder, "strangers"))
    certificate, key = ours.issue("server")
    return Way(
        f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}',
        lambda _role: {"tls_ca": ours.ca},
        lambda _role: {"tls_ca": strangers.ca},
        "certificate verify failed",
    )


def mutual(folder: Path) -> Way:
    """Both show certificates, and the server takes the client's for who it is."""
    ours, strangers = Authority(folder), Authority(_sub(folder, "strangers"))
    certificate, key = ours.issue("server")
    shown = {role: ours.issue(role) for role in ROLES}
    foreign = {role: strangers.issue(role) for role in ROLES}
    users = "\n".join(f'{{ user: "CN={role}", {permissions(role)} }}' for role in ROLES)
    return Way(
        f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{ours.ca}", verify_and_map: true }}\n'
        f"authorization {{ users: [\n{users}\n] }}",
        lambda role: {"tls_ca": ours.ca, "tls_cert": shown[role][0], "tls_key": shown[role][1]},
        lambda role: {"tls_ca": ours.ca, "tls_cert": foreign[role][0], "tls_key": foreign[role][1]},
        "no TLS with NATS|no NATS server answers",
    )


def handshake_first(folder: Path) -> Way:
    """TLS before the server says anything, told by a context file of the `nats` CLI."""
    ours = Authority(folder)
    certificate, key = ours.issue("server")
    shown = ours.issue("anybody")
    tls = f'cert_file: "{certificate}", key_file: "{key}", ca_file: "{ours.ca}", verify: true, handshake_first: true'
    right = {"ca": str(ours.ca), "cert": str(shown[0]), "key": str(shown[1]), "tls_first": True}
    wrong = {"ca": str(ours.ca), "tls_first": True}
    contexts = [_written(folder / f"{n}.json", json.dumps(one)) for n, one in enumerate((right, wrong))]
    return Way(
        f"tls {{ {tls} }}",
        lambda _role: {"context": str(contexts[0])},
        lambda _role: {"context": str(contexts[1])},
        "no TLS with NATS|no NATS server answers",
    )


def nkeyed(folder: Path) -> Way:
    """The server knows public keys; the seeds stay with their users."""
    known = {role: Identity.make(nkeys.PREFIX_BYTE_USER) for role in ROLES}
    users = "\n".join(f"{{ nkey: {known[role].public}, {permissions(role)} }}" for role in ROLES)
    stranger = _written(folder / "stranger.nk", Identity.make(nkeys.PREFIX_BYTE_USER).seed)
    seeds = {role: _written(folder / f"{role}.nk", known[role].seed) for role in ROLES}
    return Way(
        f"authorization {{ users: [\n{users}\n] }}",
        lambda role: {"nkey": seeds[role]},
        lambda _role: {"nkey": stranger},
        "refused the connection: Authorization",
    )


CLAIMS: dict[str, dict[str, Any]] = {
    "replica": {
        "pub": {"allow": ["task.>", "graph.>", "dwarf.peer.*", "dwarf.event.>", "dwarf.stopped.>", "_INBOX.>"]},
        "sub": {
            "allow": ["dwarf.*.* dwarf", "dwarf.peer.*", "dwarf.health", "dwarf.health.*", "$SRV.>", "_INBOX.replica.>"]
        },
    },
    "billing": {
        "pub": {"deny": [">"]},
        "sub": {"allow": ["task.billing.> workers", "$SRV.>", "_INBOX.billing.>"]},
        "resp": {"max": 3, "ttl": 3600 * 10**9},
    },
    "shop": {"pub": {"allow": ["dwarf.flow.create_task", "dwarf.flow.run"]}, "sub": {"allow": ["_INBOX.shop.>"]}},
}


def credited(folder: Path) -> Way:
    """Decentralised: an operator vouches for an account, which vouches for its users."""
    operator, other = Operator(), Operator()
    right = {role: _written(folder / f"{role}.creds", operator.credentials(role, CLAIMS[role])) for role in ROLES}
    wrong = {role: _written(folder / f"{role}-x.creds", other.credentials(role, CLAIMS[role])) for role in ROLES}
    return Way(
        operator.config,
        lambda role: {"creds": right[role]},
        lambda role: {"creds": wrong[role]},
        "refused the connection: Authorization",
    )


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _sub(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def served(url: str, how: ConnectArguments, dsn: str) -> ServerSettings:
    """Of a replica that connects like that."""
    paths: dict[str, Any] = {name: value for name, value in how.items() if name != "context"}
    return ServerSettings.of(
        dsns=[dsn],
        nats_url=url,
        context=how.get("context", ""),
        inbox_prefix="_INBOX.replica",
        drain_ms=200,
        wait_for_servers=False,
        **paths,
    )


def worker_of(url: str, how: ConnectArguments) -> Worker:
    worker = Worker(url, inbox_prefix="_INBOX.billing", **how)  # type: ignore[misc]
    worker.add_task("billing.price", lambda items: {"total": 10 * items})
    return worker


def client_of(url: str, how: ConnectArguments) -> Client:
    return Client(url, inbox_prefix="_INBOX.shop", **how)  # type: ignore[misc]


def bill() -> Graph:
    graph = Graph("bill")
    graph.add_chain("billing.price", END)
    return graph


@pytest.mark.parametrize("way", [encrypted, mutual, handshake_first, nkeyed, credited])
async def test_replica_worker_and_client_connect_and_strangers_do_not(
    way: Callable[[Path], Way], tmp_path: Path, sqlite_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    how = way(tmp_path)
    config = _written(tmp_path / "nats.conf", how.config)
    async with NatsServer(config=config) as server:
        url = server.url
        async with (
            replica(served(url, how.right("replica"), sqlite_dsn)),
            worker_of(url, how.right("billing")),
            client_of(url, how.right("shop")) as client,
        ):
            assert (await client.run(bill(), {"items": 2})).state == {"items": 2, "total": 20}
        assert "permissions violation" not in caplog.text.lower()
        with pytest.raises(Unavailable, match=how.refusal):
            await client_of(url, how.wrong("shop")).connect()
        with pytest.raises(Unavailable, match=how.refusal):
            await worker_of(url, how.wrong("billing")).start()
        with pytest.raises(Unavailable, match=how.refusal):
            async with replica(served(url, how.wrong("replica"), sqlite_dsn)):
                pass


async def test_a_context_by_name_serves_command_line_and_sdk(
    tmp_path: Path, sqlite_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contexts of the `nats` CLI: `--context`, and `NATS_CONTEXT` where nothing is said."""
    for name in [name for name in os.environ if name.startswith(("NATS_", "DWARF_"))]:
        monkeypatch.delenv(name)
    deployment = tmp_path / "deployment"
    deployment.mkdir()
    config = secured(deployment, monkeypatch)
    contexts = tmp_path / "nats" / "context"
    contexts.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    async with NatsServer(config=config) as server:
        for user in USERS:
            context = {"url": server.url, "user": user, "password": user, "inbox_prefix": f"_INBOX.{user}"}
            _written(contexts / f"{user}.json", json.dumps(context))
        settings = ServerSettings.of(dsns=[sqlite_dsn], context="replica", drain_ms=200, wait_for_servers=False)
        worker = Worker(context="billing")
        worker.add_task("billing.price", lambda items: {"total": 10 * items})
        async with replica(settings), worker:
            monkeypatch.setenv("NATS_CONTEXT", "shop")
            async with Client() as client:
                assert (await client.run(bill(), {"items": 2})).state == {"items": 2, "total": 20}
            listed = await command("flow", "list", "--json", "--context", "viewer")
            assert [flow["workflow"] for flow in json.loads(listed)["flows"]] == ["bill"]
            monkeypatch.setenv("NATS_CONTEXT", "operator")
            assert json.loads(await command("flow", "purge", "--json", "--workflow", "bill")) == {"deleted": 1}


async def command(*arguments: str) -> str:
    """What a command that must succeed prints."""
    done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), prog_name="dwarf-nats")
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


@pytest.mark.parametrize("seed_in_file", [False, True])
async def test_a_context_may_hold_the_jwt_itself(seed_in_file: bool, tmp_path: Path) -> None:
    """As `nats context add --user-jwt` writes it, with the seed beside it or in the file that `nkey` names."""
    operator = Operator()
    jwt, seed = credentials_in(operator.credentials("ada", {}), "it")
    (tmp_path / "ada.nk").write_text(f"{seed}\n")
    rest = {"nkey": str(tmp_path / "ada.nk")} if seed_in_file else {"user_seed": seed}
    _written(tmp_path / "ada.json", json.dumps({"user_jwt": jwt, **rest}))
    server = NatsServer(config=_written(tmp_path / "nats.conf", operator.config))
    async with server, contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(server.url, context=str(tmp_path / "ada.json")))
        await client.nc.flush()
