"""Cores that an option names, and the words for those that it cannot mean."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError

import pytest

from bench.capacity import pins_of

CORE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
pytestmark = pytest.mark.skipif(CORE is None, reason="the system does not keep processes on cores")


def test_parts_are_kept_on_the_cores_that_are_named() -> None:
    assert pins_of(f"workers,client={CORE}") == {"workers": frozenset([CORE]), "client": frozenset([CORE])}


@pytest.mark.parametrize("text", ["", "engine", "engine=", "=0", "motor=0", "engine=x", "engine=-1", "engine=0,,1"])
def test_what_names_no_part_or_core_is_told_what_to_write(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"is not PART,…=CORE,… such as engine=0, of the parts engine, "):
        pins_of(text)


def test_a_core_that_is_not_there_is_told_those_that_are() -> None:
    with pytest.raises(ArgumentTypeError, match=rf"names a core that is not there: this process may use {CORE}"):
        pins_of("engine=4095")
