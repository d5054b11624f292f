"""The engines that a run measures on request: what is said where something is missing, and how they are started.

None of them is needed here: npm and the servers are scripts made by the tests.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench import restate, served, temporal
from bench.__main__ import main
from bench.arms import Servers, Sides
from bench.cases import Plan, run_cases
from bench.children import Child, Failed
from bench.others import Others, Restate
from bench.processes import listener
from bench.served import ServedArm, Started, free_ports, until_connected
from dwarf_nats.child_process import ChildProcess
from dwarf_nats.errors import Unavailable


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a user who has neither npm nor Node.js."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(restate, "package", lambda: "@restatedev/restate-server-linux-x64")
    (tmp_path / "bin").mkdir()
    return restate.cache()


async def test_without_npm_it_says_what_to_install(home: Path) -> None:
    with pytest.raises(Failed, match=r"needs npm.*install Node\.js.*--restate-server PATH"):
        await restate.fetch()
    assert not list(home.parent.parent.glob("*"))


@pytest.mark.usefixtures("home")
async def test_a_registry_that_is_away_is_told_with_its_words(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "npm", "#!/bin/sh\necho 'npm error network ENOTFOUND' >&2\nexit 1\n")
    with pytest.raises(Failed, match=r"could not fetch Restate \(npm error network ENOTFOUND\).*npm registry"):
        await restate.fetch()


async def test_it_is_fetched_once_into_the_cache(home: Path, tmp_path: Path) -> None:
    """Never into the project; scripts of the packages do not run; the versions are pinned."""
    server = home / "node_modules" / "@restatedev" / "restate-server-linux-x64" / "bin" / "restate-server"
    sdk = home / "node_modules" / "@restatedev" / "restate-sdk"
    npm = program(
        tmp_path / "bin" / "npm",
        f"#!{sys.executable}\nimport pathlib, sys\nfor one in ({str(server)!r}, {str(sdk)!r} + '/x'):\n"
        "    path = pathlib.Path(one)\n    path.parent.mkdir(parents=True, exist_ok=True)\n    path.touch()\n"
        f"pathlib.Path({str(tmp_path / 'said')!r}).write_text(' '.join(sys.argv[1:]))\n",
    )
    assert await restate.fetch() == Restate(str(server))
    said = (tmp_path / "said").read_text()
    assert f"--prefix {home}" in said
    assert "--ignore-scripts" in said
    assert f"restate-server-linux-x64@{restate.SERVER_VERSION}" in said
    npm.unlink()
    node = program(tmp_path / "bin" / "node", "")
    found = await restate.fetch()
    assert found == Restate(str(server), str(node), str(home))
    assert (Restate(str(server)).sdks, found.sdks) == (("python",), ("python", "typescript"))


async def test_a_server_of_ones_own_must_be_a_program(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="there is no such program"):
        await restate.fetch(str(tmp_path))
    with pytest.raises(Failed, match="there is no such program"):
        temporal.check(str(tmp_path / "temporal"))
    own = program(tmp_path / "restate-server", "")
    assert await restate.fetch(str(own)) == Restate(str(own))
    temporal.check("")


def test_a_machine_that_restate_has_no_server_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(Failed, match=r"no server for .* on riscv64.*leave out --with restate"):
        restate.package()


def test_the_server_gets_defaults_on_loopback_without_telemetry() -> None:
    """Whatever the user has set for a Restate of theirs does not change what is measured."""
    found = restate.server_environment({"PATH": "/bin", "RESTATE_DEFAULT_REPLICATION": "3"}, 1, 2, 3)
    assert found["PATH"] == "/bin"
    assert "RESTATE_DEFAULT_REPLICATION" not in found
    assert (found["DO_NOT_TRACK"], found["RESTATE_DISABLE_TELEMETRY"]) == ("1", "true")
    assert all("127.0.0.1" in value for name, value in found.items() if name.endswith("_ADDRESS"))


@pytest.mark.parametrize("text", ["7233", "host", ":7233", "host:", "host:port", "host:0", "host:70000"])
def test_an_address_says_how_it_is_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT, as in 127\.0\.0\.1:7233"):
        temporal.address(text)


def test_addresses_and_the_command_of_the_development_server() -> None:
    assert temporal.address("example.org:7233") == ("example.org", 7233)
    assert temporal.address("[::1]:7233") == ("::1", 7233)
    command = temporal.command("temporal", 1, 2, 3, Path("/tmp/t.db"))
    assert command[:4] == ["temporal", "server", "start-dev", "--headless"]
    assert command[command.index("--db-filename") + 1] == "/tmp/t.db"
    assert command[command.index("--ip") + 1] == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["floor-linear", "--with", "restate"], "go with the case peers"),
        (["--temporal", "127.0.0.1:7233"], "go with the case peers"),
        (["peers", "--temporal", "7233"], "HOST:PORT"),
        (["peers", "--temporal", "a:1", "--temporal-server", "b"], "give one of them"),
        (["floor-linear", "--arm", "dbos"], "choose among floor, postgresql, sqlite"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_starts(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert said in capsys.readouterr().err


def test_a_missing_program_stops_the_run_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--temporal-server", str(tmp_path / "none"), "--out", str(tmp_path / "r.json")]) == 1
    assert "Give the path of Temporal's command" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


async def test_an_arm_that_the_case_does_not_have_is_told_with_those_it_has(tmp_path: Path) -> None:
    sides = Sides(others=Others(only=("temporal",)))
    with pytest.raises(Failed, match=r"peers/10x1 has no arm temporal: it has dbos, .*sqlite"):
        await run_cases(
            [Plan("peers", 1, 1, sizes=(10,), label="10x1")],
            [],
            Servers("", "", tmp_path),
            sides,
            1,
            lambda _said: None,
        )


def test_the_optional_arms_are_those_asked_for(tmp_path: Path) -> None:
    servers = Servers("", "", tmp_path)
    assert restate.arms(servers, Sides()) == temporal.arms(servers, Sides()) == []
    sides = Sides(others=Others(Restate("server", "node", "modules"), "127.0.0.1:7233"))
    assert [arm.figures.name for arm in restate.arms(servers, sides)] == [
        "restate-python", "restate-python-chained", "restate-typescript", "restate-typescript-chained",
    ]  # fmt: skip
    assert [arm.figures.name for arm in temporal.arms(servers, sides)] == ["temporal", "temporal-local"]
    assert [arm.figures.name for arm in temporal.arms(servers, sides, ("local",))] == ["temporal-local"]


CLIENT = """
import json, sys
print('{"ready": true}', flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "hang" in sys.argv:
        continue
    print(json.dumps({"flows": asked["flows"], "seconds": 2.0, "p50_ms": 3.0, "p99_ms": 4.0, "cpu": 0.5}), flush=True)
"""


def arm_of(script: Path, *arguments: str, tmp_path: Path, on_database: bool = False) -> ServedArm:
    async def start(stack: AsyncExitStack) -> Started:
        client = await stack.enter_async_context(Child.of(sys.executable, "-I", str(script), *arguments))
        return Started(client, {"engine": os.getpid(), "workers": client.pid}, on_database)

    return ServedArm(
        "one", Servers("", "", tmp_path, {"database": os.getpid(), "nats": os.getpid()}), Sides(steps=5), start
    )


@pytest.mark.parametrize("on_database", [False, True])
async def test_a_round_has_the_cpu_of_its_own_processes(tmp_path: Path, on_database: bool) -> None:
    """PostgreSQL's only if the engine stores in it, and nats-server's never."""
    script = program(tmp_path / "client.py", CLIENT)
    async with arm_of(script, tmp_path=tmp_path, on_database=on_database) as arm:
        figures = await arm.measure(16, 1000)
    assert (figures.flows, figures.steps, figures.steps_per_s, figures.p50_ms) == (200, 1000, 500, 3.0)
    assert figures.cpu_us["client"] == 500
    assert set(figures.cpu_us) == {"engine", "workers", "client", *(["database"] if on_database else [])}


async def test_an_engine_that_loses_a_call_does_not_hold_the_run_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "ROUND_AT_MOST", 0.01)
    script = program(tmp_path / "client.py", CLIENT)
    async with arm_of(script, "hang", tmp_path=tmp_path) as arm:
        with pytest.raises(Failed, match="one did not finish a round within"):
            await arm.measure(1, 1)


async def test_a_server_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    process = ChildProcess("restate-server")
    process.launch(["/bin/sh", "-c", "echo no such option; exit 1"], log=tmp_path / "log")
    try:
        with pytest.raises(Unavailable, match="restate-server did not start: no such option"):
            await until_connected("restate-server", free_ports(1), process)
    finally:
        await process.end()


def test_the_process_that_listens_on_a_port() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert listener(port) is None
        listening.listen()
        assert listener(port) == os.getpid()
    assert listener(port) is None
