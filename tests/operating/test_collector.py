"""Python's garbage collector in the processes of the command line."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import gc, json, weakref
from dwarf_nats.collector import YOUNG_OBJECTS, collect_seldom

class Link:
    pass

before = gc.get_threshold()
collect_seldom()
circle = Link()
circle.itself = circle
seen = weakref.ref(circle)
del circle
kept = [[] for _ in range(YOUNG_OBJECTS + 1)]
print(json.dumps({
    "before": before, "after": gc.get_threshold(), "enabled": gc.isenabled(), "frozen": gc.get_freeze_count(),
    "freed": seen() is None,
}))
"""


def collector_after_start() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_process_collects_less_often_and_still_frees_circles() -> None:
    """What is loaded at the start is never walked again; a circle made later goes when enough has been made after it."""
    found = collector_after_start()
    before, after = found["before"], found["after"]
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert after[0] == 5000 > before[0]
    assert after[1:] == before[1:]
    assert found["enabled"] is True
    assert isinstance(found["frozen"], int)
    assert found["frozen"] > 1_000
    assert found["freed"] is True


def test_a_host_that_embeds_the_engine_keeps_its_own_collector() -> None:
    """Only the commands `serve` and `worker` set it: importing the package and its engine does not."""
    program = "import gc; print(*gc.get_threshold()); import dwarf_nats, dwarf_nats.server; print(*gc.get_threshold())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    before, after = done.stdout.splitlines()
    assert after == before
