"""The web console as a command, and as a part of `serve` and `dev`."""

from __future__ import annotations

import importlib.util
import re
import signal
from pathlib import Path

import httpx
import pytest

from dwarf_nats.console.login import verified
from dwarf_nats.dev_servers import NatsServer
from tests.cli.conftest import Run
from tests.cli.test_start import started


async def page_of(said: str) -> httpx.Response:
    """The page at the address that a command printed."""
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert found, said
    async with httpx.AsyncClient() as client:
        return await client.get(f"{found[0]}/flows")


async def test_the_console_serves_pages_and_ends_in_order(nats_server: NatsServer, tmp_path: Path) -> None:
    arguments = ["console", "--nats", nats_server.url, "--listen", "127.0.0.1:0", "--prefix", "nobody"]
    async with started(arguments, tmp_path) as process:
        await process.until("console   http://")
        page = await page_of(process.said)
        assert page.status_code == 503
        assert "no dwarf-nats replica answers" in page.text
        process.send(signal.SIGTERM)
        assert await process.ended() == 0


async def test_serve_may_have_a_console_beside_it(nats_server: NatsServer, tmp_path: Path) -> None:
    arguments = ["serve", "--nats", nats_server.url, "--dsn", f"sqlite:///{tmp_path}/dwarf.db", "--prefix", "beside"]
    async with started([*arguments, "--console", "127.0.0.1:0"], tmp_path) as process:
        await process.until("is ready")
        assert (await page_of(process.said)).status_code == 200
        process.send(signal.SIGTERM)
        assert await process.ended() == 0


@pytest.mark.slow
async def test_dev_prints_its_address(tmp_path: Path) -> None:
    async with started(["dev", "--data", str(tmp_path)], tmp_path) as process:
        await process.until("Ctrl-C stops everything.")
        said = process.said[process.said.index("console   ") :]
        assert (await page_of(said)).status_code == 200
        process.send(signal.SIGTERM)
        assert await process.ended() == 0


def test_it_does_not_listen_to_everybody_without_a_login(run: Run) -> None:
    result = run("console", "--listen", ":0")
    assert result.exit_code == 1
    assert "--passwords" in result.stderr
    result = run("serve", "--dsn", "sqlite:///x.db", "--console", ":0")
    assert result.exit_code == 1
    assert "--passwords" in result.stderr


def test_a_password_is_hashed_for_the_file(run: Run) -> None:
    result = run("console", "--hash-password", "ada", stdin="secret\n")
    assert result.exit_code == 0
    user, _, hashed = result.stdout.strip().partition(":")
    assert user == "ada"
    assert verified("secret", hashed)
    assert not verified("Secret", hashed)
    assert run("console", "--hash-password", "ada", stdin="\n").exit_code == 1


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run("console")
    assert result.exit_code == 1
    assert 'pip install "dwarf-nats[console]"' in result.stderr
