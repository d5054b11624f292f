"""Sealed fields on the command line: `--codec`, for commands and for workers (B9)."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run, served

TASKS = """
from dwarf_nats.sdk import Codec, Worker
worker = Worker(codec=Codec({{"k1": b"k" * 32}}, ["card"]))
@worker.task("charge")
async def charge(card: str) -> dict[str, str]:
    return {{"card": card.upper(), "last": card[-1]}}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("sealed"), TASKS.format()) as place:
        yield place


@pytest.mark.slow
def test_a_command_with_a_codec_seals_and_opens(at: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = tmp_path / "codec.json"
    key = base64.b64encode(b"k" * 32).decode()
    codec.write_text(json.dumps({"keys": [{"id": "k1", "key": key}], "fields": ["card"]}))
    ran = at("flow", "run", "--task", "charge", "--state", '{"card": "x1"}', "--codec", str(codec), "--json")
    assert ran.exit_code == 0, ran.output
    outcome = json.loads(ran.stdout)
    assert outcome["state"] == {"card": "X1", "last": "1"}
    bare = json.loads(at("flow", "get", outcome["flowKey"], "--json").stdout)
    assert bare["state"]["card"]["key"] == "k1"
    monkeypatch.setenv("DWARF_CODEC", str(codec))
    assert json.loads(at("flow", "get", outcome["flowKey"], "--json").stdout)["state"]["card"] == "X1"


def test_a_codec_that_cannot_be_used_is_refused_before_anything_is_sent(run: Run, tmp_path: Path) -> None:
    for arguments in (("flow", "list"), ("worker", "--task", "a", "--command", "true")):
        refused = run(*arguments, "--codec", str(tmp_path / "none.yaml"))
        assert refused.exit_code != 0
        assert "none.yaml cannot be read" in refused.output
