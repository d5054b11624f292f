"""What users import from `dwarf_nats.sdk`, and what they may pass without ceremony."""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

from dwarf_nats import errors, sdk
from dwarf_nats.errors import BadRequest
from dwarf_nats.sdk import Client, Flow, FlowOptions, Query, Status, Worker
from tests.sdk.test_sdk_client import STEP

ROOT = Path(__file__).parents[2]


def _classes_in(hint: Any) -> set[type]:
    """The classes of the project that a hint names."""
    if isinstance(hint, type) and hint.__module__.startswith("dwarf_nats"):
        return {hint}
    parts = typing.get_args(hint) if typing.get_origin(hint) or isinstance(hint, UnionType) else ()
    return {one for part in parts for one in _classes_in(part)}


def _named(one: type) -> set[type]:
    """The classes of the project in the annotations of a class: of its fields, and of its public methods."""
    annotated = [one, *(member for name, member in inspect.getmembers(one, inspect.isfunction) if name[0] != "_")]
    found: set[type] = set()
    for each in annotated:
        if each.__module__.startswith("dwarf_nats"):
            words = re.findall(r"[A-Z]\w*", " ".join(map(str, each.__annotations__.values())))
            known = vars(sys.modules[each.__module__])
            found |= {inner for word in words for inner in _classes_in(known.get(word))}
    return found


def _reachable(*classes: type) -> set[type]:
    """The classes that others name, and so on."""
    found: set[type] = set()
    pending = list(classes)
    for one in pending:  # it grows meanwhile
        fresh = _named(one) - found
        found |= fresh
        pending += fresh
    return found


def test_everything_a_client_takes_and_returns_is_exported() -> None:
    exported = {getattr(sdk, name) for name in sdk.__all__}
    found = _reachable(Client, Worker, Flow)
    assert {"Outcome", "Step", "Status", "Query", "Graph", "GraphInfo", "ErrorInfo"} <= {one.__name__ for one in found}
    inside = {
        "Answer",
        "AskPerson",
        "Compensation",
        "Dataclass",
        "Defaults",
        "Disposition",
        "EventWait",
        "Field",
        "Model",
        "Node",
        "NodeKind",
        "ReducerKind",
        "Retry",
        "RunWorkflow",
        "ShardHealth",
        "Sleep",
        "Subgraph",
        "Subjects",
        "Transition",
        "WaitForEvent",
    }
    assert {one.__name__ for one in found - exported} <= inside


def test_every_refusal_is_exported() -> None:
    leaves = {
        name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.DwarfError)
    }
    assert leaves <= set(sdk.__all__)
    assert sorted(sdk.__all__) == sorted(set(sdk.__all__))
    assert {"Status", "Outcome", "Step", "Flow", "Worker"} <= set(sdk.__all__)
    assert all(hasattr(sdk, name) for name in sdk.__all__)


def test_every_name_that_the_pages_import_from_the_sdk_is_exported() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    imports = re.findall(r"from dwarf_nats\.sdk import ([\w, ]+)", "\n".join(page.read_text() for page in pages))
    names = {name.strip() for line in imports for name in line.split(",")}
    assert names
    assert names <= set(sdk.__all__)


def test_a_status_is_given_by_its_name_or_as_one() -> None:
    assert Query(status="failed") == Query(status=Status.FAILED)
    assert Query(status="failed").status is Status.FAILED
    with pytest.raises(BadRequest, match="there is no status 'fialed': did you mean 'failed'"):
        Query(status="fialed")
    with pytest.raises(BadRequest, match=r"there is no status '': use one of created, pending, .*, cancelled"):
        Query(status="")


WRONG: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "options must be FlowOptions, got dict": lambda c: c.create("greet", options={"priority": 1}),  # type: ignore[arg-type]
    "a query must be a Query, got dict": lambda c: c.list({"status": "failed"}),  # type: ignore[arg-type]
    "a query must be a Query, got str": lambda c: c.purge("failed"),  # type: ignore[arg-type]
    "a graph must be a Graph, got dict": lambda c: c.put_graph({"name": "greet"}),  # type: ignore[arg-type]
    "a graph must be a Graph, got bytes": lambda c: c.run(b"{}"),  # type: ignore[arg-type]
    "state must be a mapping .* got array": lambda c: c.create("greet", [1]),  # type: ignore[arg-type]
    "overrides must be a mapping .* got str": lambda c: c.fork(STEP, "x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("said", WRONG)
async def test_a_value_of_the_wrong_type_is_a_refusal_that_says_what_to_pass(said: str) -> None:
    """Before anything is sent."""
    with pytest.raises(BadRequest, match=said):
        await WRONG[said](Client("nats://127.0.0.1:1", patience=0))


def test_a_start_time_that_is_a_text_is_refused_with_the_remedy() -> None:
    assert FlowOptions(start_at=datetime(2030, 1, 1, tzinfo=UTC)).start_at is not None
    with pytest.raises(BadRequest, match=r"must be a datetime .* got str: for a text use datetime\.fromisoformat"):
        FlowOptions(start_at="2030-01-01T00:00:00Z")  # type: ignore[arg-type]
