"""Python's garbage collector in the processes that this package owns: replica, worker and console of the command line."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 5000
"""Objects made and not yet freed, after which the collector looks at the young ones. Python's own number is 700."""
SHORT_LIVED_OBJECTS = 50_000
"""The same for a command that ends soon: what it loads is no garbage, and it ends before there is much."""


def collect_hardly() -> None:
    """Let the collector come when there are very many objects. To look for garbage in what is being loaded takes time only."""
    gc.set_threshold(SHORT_LIVED_OBJECTS)


def collect_no_more() -> None:
    """Keep all there is out of the collections with which Python ends: the process gives its memory back as a whole."""
    gc.freeze()


def collect_seldom() -> None:
    """Keep what is loaded by now out of every collection, and let collections come less often.

    A replica with hundreds of steps in flight holds tens of thousands of young objects that are no garbage: tasks, futures,
    calls. With Python's own numbers the collector walks them again and again, a fifth of the CPU time of a step. Nearly all is
    freed by reference counts; what is left, errors in a circle with their frames, waits a little longer for its end.

    For a process, not for a library: a host that embeds the engine sets its own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
