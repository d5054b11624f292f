"""Private names of nats-py in use: where, which, and that they are still there.

What nats-py does not promise may change with any release. So its version is bounded in `pyproject.toml`, four modules own all
uses, and raising the bound begins here: a name that has vanished fails, and so does one that is used anew.
"""

from __future__ import annotations

import ast
import asyncio
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import nats
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dwarf_nats"

USED = {
    "nats_client.py": {
        "_attempt_reconnect",
        "_auth_configured",
        "_bare_io_writer",
        "_close",
        "_connect_command",
        "_connect_to_server",
        "_current_server",
        "_error_cb",
        "_host_is_ip",
        "_id",
        "_io_reader",
        "_io_writer",
        "_pending",
        "_pending_data_size",
        "_process_connect_init",
        "_process_err",
        "_process_info",
        "_process_op_err",
        "_ps",
        "_queue",
        "_read_creds_user_jwt",
        "_read_creds_user_nkey",
        "_send_subscribe",
        "_send_unsubscribe",
        "_server_info",
        "_server_pool",
        "_subject",
        "_subs",
        "_transport",
    },
    "raw_messages.py": {
        "_flush_queue",
        "_id",
        "_pending",
        "_pending_data_size",
        "_process_msg",
        "_remove_sub",
        "_sid",
        "_subs",
    },
    "bus/connection.py": {
        "_max_payload",
        "_pending",
        "_pending_data_size",
    },
    "round_trips.py": {
        "_pending",
        "_pending_data_size",
        "_pongs",
        "_send_ping",
        "_transport",
    },
}
"""The private names of nats-py that each module reads, sets, calls or overrides."""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_replace"  # of named tuples, and public


def _names(tree: ast.AST) -> Iterator[str]:
    """The private names that a module uses: attributes, methods, and texts that are names of attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def _parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text())


def _imports_nats(tree: ast.AST) -> bool:
    """Whether a module imports nats-py, or one of the modules that use its private names."""
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names]
    return any(
        name.split(".")[0] == "nats" or name.endswith((".nats_client", ".raw_messages", ".round_trips", "connection"))
        for name in imported
    )


def _of_nats() -> set[str]:
    """The private names of nats-py's classes: methods, and attributes of instances."""
    folder = Path(nats.__file__).parent
    files = [*(folder / "aio").glob("*.py"), *(folder / "protocol").glob("*.py")]
    return {name for path in files for name in _names(_parsed(path)) if _is_private(name)}


@pytest.mark.parametrize("module", USED)
def test_the_private_names_of_nats_py_in_use_are_listed_and_still_there(module: str) -> None:
    known = _of_nats()
    assert USED[module] <= known, "nats-py has these names no more"
    assert {name for name in _names(_parsed(PACKAGE / module)) if name in known} == USED[module]


def test_no_other_module_uses_private_names_of_nats_py() -> None:
    known = _of_nats()
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.attr}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).as_posix() not in USED and _imports_nats(_parsed(path))
        for node in ast.walk(_parsed(path))
        if isinstance(node, ast.Attribute)
        and node.attr in known
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert found == []


async def test_the_private_names_of_asyncio_in_use_are_still_there() -> None:
    """Of the reader's buffer and of the protocol below a stream: `_last_words` and `connect_tls` need them."""
    reader = asyncio.StreamReader()
    assert isinstance(vars(reader)["_buffer"], bytearray)
    assert "_over_ssl" in vars(asyncio.StreamReaderProtocol(reader))


def test_nats_py_is_bounded_above() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bounds,) = [one.removeprefix("nats-py") for one in project["dependencies"] if one.startswith("nats-py")]
    lower, upper = (one.strip("<>=").split(".") for one in bounds.split(","))
    assert bounds.startswith(">=")
    assert ",<" in bounds
    installed = version("nats-py").split(".")
    assert [int(one) for one in lower] <= [int(one) for one in installed] < [int(one) for one in upper]
