"""A new operation is one row of the table; what it lacks is found here: handler, engine, client, CLI, documents."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwarf_nats.bus import handlers
from dwarf_nats.bus.engine_api import EngineApi
from dwarf_nats.bus.handlers import HANDLERS
from dwarf_nats.engine import Engine
from dwarf_nats.sdk import Client
from dwarf_nats.wire.examples import EXAMPLES
from dwarf_nats.wire.operations import OPERATION_NAMES, OPERATIONS, Operation
from tests.cli.test_usage import COMMANDS

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
MADE_OF_OTHERS = {"bulk", "find", "health", "history", "iter_history", "list_all", "request", "send_message", "watch"}
"""Methods of the client that are no operation: made of others, asked of each replica, or any operation."""


def names_in(function: Any) -> set[str]:
    """Every text and every attribute in the source of a function, those of the functions it calls excepted."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return texts | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_names_are_unique_and_every_message_has_an_example() -> None:
    assert len(OPERATION_NAMES) == len(OPERATIONS)
    assert {kind for one in OPERATIONS for kind in (one.request, one.reply)} <= set(EXAMPLES)


def test_every_operation_has_a_handler_of_its_own() -> None:
    assert set(HANDLERS) == OPERATION_NAMES
    assert len(set(HANDLERS.values())) == len(OPERATIONS)


def test_a_handler_of_no_operation_and_a_second_one_are_refused() -> None:
    for name in ("flow.vanish", "flow.create"):
        with pytest.raises(ValueError, match=name):
            handlers.handles(name)


def test_the_engine_has_what_the_handlers_ask_of_it() -> None:
    asked = {name for name in vars(EngineApi) if not name.startswith("_")}
    assert asked <= {name for name in dir(Engine) if callable(getattr(Engine, name))}
    used = set().union(*(names_in(handler) for handler in HANDLERS.values()))
    # STATS shows the one, requests that steer are recorded with the others.
    assert asked - used == {"task_health", "begin_audit", "complete_audit", "record_audit"}


@EVERY
def test_the_client_has_a_method_that_sends_it(operation: Operation) -> None:
    assert operation.name in names_in(getattr(Client, operation.client))


def test_the_client_has_no_other_methods_than_operations_and_a_few_made_of_them() -> None:
    methods = {
        name
        for name, member in inspect.getmembers(Client, inspect.isfunction)
        if not name.startswith("_") and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }
    assert methods - {one.client for one in OPERATIONS} - {"close", "connect"} == MADE_OF_OTHERS


@EVERY
def test_the_cli_has_a_command_that_carries_it_out(operation: Operation) -> None:
    command = COMMANDS[tuple(operation.command.split())]
    assert operation.client in names_in(inspect.getmodule(inspect.unwrap(command.callback)))


def documented(page: str) -> Iterator[str]:
    """The operations in the tables of a page: `dwarf.graph.get`, `.delete` are two."""
    for line in page.splitlines():
        if line.startswith("| `dwarf."):
            family = ""
            for name in re.findall(r"`([a-z_.]+)`", line.split("|")[1]):
                family = name.removeprefix("dwarf.").partition(".")[0] if name.startswith("dwarf.") else family
                yield name.removeprefix("dwarf.") if name.startswith("dwarf.") else family + name


def test_the_protocol_page_has_every_operation_and_no_other() -> None:
    page = (ROOT / "docs/wire-protocol.md").read_text().partition("## 1. Operations")[2].partition("\n## ")[0]
    assert sorted(set(documented(page)) - {"health"}) == sorted(OPERATION_NAMES)


@EVERY
def test_the_page_of_the_client_has_its_method(operation: Operation) -> None:
    page = (ROOT / "docs/python-sdk.md").read_text()
    assert re.search(rf"`{operation.client}[`(]", page), operation.client


def test_a_viewer_may_publish_what_reads_and_nothing_else() -> None:
    """The template for viewers is the table's `reads`, and the health of replicas, which is no operation."""
    text = (ROOT / "docs/operating/permissions/viewer.conf").read_text()
    publish, _, _ = text.partition("subscribe:")
    allowed = {name.removeprefix("dwarf.") for name in re.findall(r'"(dwarf\.[^"]+)"', publish)}
    assert allowed - {"health", "health.*"} == {one.name for one in OPERATIONS if one.reads and not one.confidential}
