"""No command shows a password, a token or a seed, right or wrong, at any log level (wire: section 6)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import nkeys
import pytest
from typer.testing import CliRunner

from dwarf_nats.cli.main import app
from dwarf_nats.dev_servers import NatsServer
from tests.support.identities import Identity, Operator

pytestmark = pytest.mark.slow

SECRET = "S3cr3t"
PIECES = ("S3cr3t", "Pa55w-of", "0rdX-all")
PASSWORD = "S3cr3t/Pa55w-of#0rdX-all"  # cut by readers of URLs, each piece would be quoted by another
ENCODED = "S3cr3t%2FPa55w-of%230rdX-all"
DEAD = "127.0.0.1:1"
WAIT = 90.0


@dataclass
class Try:
    """What a command is started with: arguments and variables."""

    arguments: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def clean(variables: dict[str, str], home: Path) -> dict[str, str]:
    """An environment without settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "DWARF_", "PG", "OTEL_"))}
    return {**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "DWARF_TRACEBACK": "1", **variables}


def check(said: str, where: object, extra: tuple[str, ...] = ()) -> None:
    shown = [one for one in (*PIECES, *extra) if one in said]
    assert not shown, (where, shown, said)


async def ran(tried: Try, home: Path, *until: str, between: Callable[[], Awaitable[None]] | None = None) -> str:
    """All that a command says until it ends, or until it has said each of `until`; then it is ended.

    `between` is done after the first of them.
    """
    left = list(until)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dwarf_nats.cli.main", *tried.arguments, cwd=home,
        env=clean(tried.variables, home), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said = ""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT):
            while line := (await process.stdout.readline()).decode():
                said += line
                if left and left[0] in line:
                    del left[0]
                    if between is not None and len(left) == 1:
                        await between()
                    if not left:
                        break
            assert not left, said
            if until:
                process.terminate()
            said += (await process.stdout.read()).decode()
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said


NATS = [
    Try(["--nats", f"nats://u:{ENCODED}@{{place}}"]),
    Try(["--nats", f"nats://u:{PASSWORD}@{{place}}"]),
    Try(["--nats", f"nats://{ENCODED}@{{place}}"]),
    Try(["--nats", f"nats://u:{ENCODED}@{DEAD},nats://{ENCODED}@{{place}}"]),
    Try(["--nats", f"nats://u:{PASSWORD}"]),
    Try(["--nats", f"nats//u:{PASSWORD}@{{place}}"]),
    Try(["--nats", f"nats://u:{PASSWORD}@{{place}}:x"]),
    Try(["--nats", f"tls://u:{ENCODED}@{{place}}"]),
    Try(variables={"DWARF_NATS": f"nats://u:{ENCODED}@{{place}}"}),
    Try(variables={"NATS_URL": "nats://{place}", "NATS_USER": "u", "NATS_PASSWORD": PASSWORD}),
    Try(variables={"NATS_URL": "nats://{place}", "NATS_TOKEN": PASSWORD}),
    Try(["--nats", "nats://{place}", "--context", "mine"]),
    Try(["--nats", "nats://{place}", "--context", "broken"]),
    Try(["--nats", "nats://{place}", "--creds", "{home}/wrong.creds"]),
    Try(["--nats", "nats://{place}", "--creds", "{home}/half.creds"]),
    Try(["--nats", "nats://{place}", "--nkey", "{home}/wrong.nk"]),
    Try(["--nats", "nats://{place}", "--nkey", "{home}/half.nk"]),
]
COMMANDS = [
    ["flow", "list"],
    ["flow", "run", "order"],
    ["flow", "watch", "1-1-abcdefghijklmnop"],
    ["graph", "list"],
    ["tasks"],
    ["shards"],
    ["health"],
    ["worker", "tasks.py"],
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with files that hold secrets, right ones and broken ones."""
    operator = Operator()
    creds = operator.credentials("u", {})
    (tmp_path / "wrong.creds").write_text(creds)
    (tmp_path / "half.creds").write_text(creds[: creds.index("-----BEGIN USER NKEY")] + "S3cr3t\n")
    seed = Identity.make(nkeys.PREFIX_BYTE_USER).seed
    (tmp_path / "wrong.nk").write_text(seed)
    (tmp_path / "half.nk").write_text(seed[:-5] + "S3cr3t")
    contexts = tmp_path / "nats" / "context"
    contexts.mkdir(parents=True)
    (contexts / "mine.json").write_text(json.dumps({"user": "u", "password": PASSWORD}))
    (contexts / "broken.json").write_text(f'{{"user": "u", "password": "{PASSWORD}", }}')
    (tmp_path / "tasks.py").write_text(
        "from dwarf_nats.sdk import Worker\nworker = Worker()\n@worker.task('a')\ndef a():\n    return {}\n"
    )
    return tmp_path


def filled(tried: Try, place: str, home: Path) -> Try:
    def fill(text: str) -> str:
        return text.replace("{place}", place).replace("{home}", str(home))

    return Try([fill(one) for one in tried.arguments], {k: fill(v) for k, v in tried.variables.items()})


async def test_no_command_shows_who_it_is_on_a_server_that_refuses_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "nats.conf").write_text("authorization { user: somebody, password: else }\n")
    monkeypatch.chdir(home)
    secrets = tuple(
        line for name in ("wrong.creds", "wrong.nk", "half.nk") for line in (home / name).read_text().split()
        if len(line) > 40 and not line.startswith("-")
    )  # fmt: skip
    async with NatsServer(config=home / "nats.conf") as server:
        place = server.url.partition("://")[2]
        for way, command in zip(NATS, itertools.cycle(COMMANDS), strict=False):
            # Each way with two commands, each command with several ways.
            for chosen in (command, COMMANDS[(COMMANDS.index(command) + 3) % len(COMMANDS)]):
                tried = filled(way, place, home)
                with monkeypatch.context() as environment:
                    for name in os.environ:
                        if name.startswith(("NATS_", "DWARF_", "PG", "OTEL_")):
                            environment.delenv(name)
                    for name, value in clean(tried.variables, home).items():
                        environment.setenv(name, value)
                    arguments = [*chosen, *tried.arguments]
                    done = await asyncio.to_thread(CliRunner().invoke, app, arguments, prog_name="dwarf-nats")
                assert done.exit_code != 0, (arguments, done.output)
                check(done.output + done.stderr + repr(done.exception), arguments, secrets)


DATABASES = [
    Try(["--dsn", f"postgresql://u:{ENCODED}@{DEAD}/d"]),
    Try(["--dsn", f"postgresql://u:{PASSWORD}@{DEAD}/d"]),
    Try(["--dsn", f"postgresql://u:{PASSWORD}@[::1/d"]),
    Try(["--dsn", f"postgresql://u:{PASSWORD}@127.0.0.1:port/d"]),
    Try(["--dsn", f"postgresql://{DEAD}/d?user=u&password={ENCODED}"]),
    Try(["--dsn", f"postgresql://{DEAD}/d?sslpassword={ENCODED}&sslmode=x"]),
    Try(["--dsn", f"host=127.0.0.1 port=1 password='{PASSWORD}' dbname=d"]),
    Try(["--dsn", f"mysql://u:{PASSWORD}@h/d"]),
    Try(["--dsn", f"postgres//u:{PASSWORD}@h/d"]),
    Try(["--dsn", f"u:{PASSWORD}@h/d"]),
    Try([f"postgresql://u:{PASSWORD}@h/d"]),
    Try(variables={"DWARF_DSN": f"postgresql://u:{ENCODED}@{DEAD}/d"}),
    Try(["--dsn", f"postgresql://u@{DEAD}/d"], {"PGPASSWORD": PASSWORD}),
]


@pytest.mark.slow
async def test_no_command_shows_the_password_of_a_database(
    nats_server: NatsServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    for tried in DATABASES:
        with monkeypatch.context() as environment:
            for name, value in clean(tried.variables, home).items():
                environment.setenv(name, value)
            arguments = ["migrate", *tried.arguments]
            done = await asyncio.to_thread(CliRunner().invoke, app, arguments, prog_name="dwarf-nats")
        assert done.exit_code != 0, (arguments, done.output)
        check(done.output + done.stderr + repr(done.exception), arguments)
    serve = ["serve", "--no-wait", "--log-level", "debug", "--nats", nats_server.url]
    for tried, form in zip(DATABASES[::3], itertools.cycle(("text", "json")), strict=False):
        said = await ran(Try([*serve, "--log-format", form, *tried.arguments], tried.variables), home)
        check(said, tried.arguments)


ASKED = [
    ["health", "--url", f"http://u:{PASSWORD}@{DEAD}/readyz"],
    ["health", "--url", f"http://u:{SECRET} Pa55w-of@h"],
    ["health", "--url", f"http://[{SECRET}"],
    ["health", f"nats://u:{PASSWORD}@h"],
    ["serve", "--dsn", "sqlite://", "--otlp", f"ftp://u:{PASSWORD}@h"],
    ["serve", "--log-level", f"nats://u:{PASSWORD}@h"],
    ["--config", f"nats://u:{PASSWORD}@h", "serve"],
    ["--config", "bad.toml", "serve"],
    [f"nats://u:{PASSWORD}@h"],
    ["flow", "run", "order", "--nats", f"nats://{DEAD}", "--start-at", f"nats://u:{PASSWORD}@h"],
]


@pytest.mark.parametrize("arguments", ASKED, ids=lambda one: " ".join(one)[:40])
def test_an_argument_in_the_wrong_place_is_not_quoted_with_its_password(
    arguments: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "bad.toml").write_text(f'nats = "nats://u:{PASSWORD}@h"\ndsn "{PASSWORD}"\n')
    monkeypatch.chdir(home)
    done = CliRunner().invoke(app, arguments, prog_name="dwarf-nats")
    assert done.exit_code != 0
    check(done.output + done.stderr + repr(done.exception), arguments)


@pytest.mark.slow
async def test_a_replica_shows_no_secret_from_its_start_over_a_reconnect_to_its_end(home: Path) -> None:
    """With the right secrets, a collector that has some too, and everything at debug level."""
    (home / "nats.conf").write_text(f'authorization {{ user: u, password: "{PASSWORD}" }}\n')
    (home / "dwarf.toml").write_text('[serve]\ndsn = ["sqlite:///d.db"]\nlog-level = "debug"\n')
    server = NatsServer(config=home / "nats.conf")
    await server.start()
    variables = {
        "DWARF_NATS": server.url.replace("//", f"//u:{ENCODED}@"),
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET},S3cr3t broken",
    }
    arguments = ["serve", "--otlp", f"http://u:{SECRET}@{DEAD}"]

    said = await ran(Try(arguments, variables), home, "is ready", "connected to NATS again at", between=server.restart)
    check(said, arguments)
    await server.stop()
