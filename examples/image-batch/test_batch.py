"""Tests of the image batch: a thousand branches, a crash in the middle, images that are broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_images import make
from tasks import worker

from dwarf_nats.sdk import Status, TaskError
from dwarf_nats.testing import FlowEnv


@pytest.fixture
def env(flow_env: FlowEnv) -> FlowEnv:
    """An environment with the graph and the tasks."""
    flow_env.graphs(Path(__file__).parent / "graphs")
    flow_env.use(worker)
    return flow_env


async def test_a_thousand_images_are_shrunk_though_the_replica_is_killed_on_the_way(
    env: FlowEnv, tmp_path: Path
) -> None:
    make(tmp_path, 1_000, side=4)
    env.crash_in("images.shrink", nth=600)
    outcome = await env.run("thumbnails", {"folder": str(tmp_path)})
    assert outcome.status is Status.COMPLETED
    assert (outcome.state["made"], outcome.state["bytes"]) == (1_000, 1_000 * len(b"P6 2 2\n255\n" + bytes(12)))
    assert len(list((tmp_path / "thumbnails").glob("*.ppm"))) == 1_000
    assert (tmp_path / "thumbnails.txt").read_text() == "1000 thumbnails\n"


async def test_broken_images_are_listed_and_not_tried_again(env: FlowEnv, tmp_path: Path) -> None:
    make(tmp_path, 3, side=4)
    (tmp_path / "image-0001.ppm").write_bytes(b"not an image")
    outcome = await env.run("thumbnails", {"folder": str(tmp_path)})
    assert (outcome.state["made"], outcome.state["broken"]) == (2, ["image-0001.ppm"])
    assert len(env.calls["images.shrink"]) == 3
    await env.assert_history(outcome, ["find", "shrink[0]", "shrink[1] handled", "shrink[2]", "note[1]", "index"])


async def test_a_disk_that_is_full_for_a_moment_is_tried_again(env: FlowEnv, tmp_path: Path) -> None:
    make(tmp_path, 2, side=4)
    env.fail("images.shrink", nth=(1, 2), error=TaskError("no space left", 507))
    outcome = await env.run("thumbnails", {"folder": str(tmp_path)})
    assert outcome.state["made"] == 2


async def test_an_empty_folder_has_an_empty_index(env: FlowEnv, tmp_path: Path) -> None:
    outcome = await env.run("thumbnails", {"folder": str(tmp_path)})
    assert outcome.status is Status.COMPLETED
    assert (tmp_path / "thumbnails.txt").read_text() == "0 thumbnails\n"
