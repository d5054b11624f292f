"""The synchronous client, generated from the asynchronous one: a method for each, with the same signature.

python -m dwarf_nats.sdk.generate_sync          write the modules
python -m dwarf_nats.sdk.generate_sync --check  check that they are up to date
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dwarf_nats.sdk.client import Client
from dwarf_nats.sdk.requester import Requester

FOLDER = Path(__file__).parents[1] / "sync"
_HEAD = '''"""{subject}

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

'''
_ASYNC_WORDS = (
    ("async with ", "with "),
    ("async for ", "for "),
    ("await ", ""),
    ("any number of coroutines", "any number of threads"),
)
_CLIENT = '''
    """A synchronous client of the service, for scripts, threads and frameworks without an event loop.

    One client serves any number of threads at once. Its methods and arguments are those of `dwarf_nats.Client`; only
    a connection of your own, `nc`, it does not take. Ctrl-C ends a method that waits.
    """
'''


def render() -> dict[Path, str]:
    """The text of each module, by its path."""
    classes = [one for one in Client.__mro__ if issubclass(one, Requester) and one is not Requester]
    return {FOLDER / f"{_module(one)}.py": _formatted(_text(one, classes)) for one in classes}


def _module(one: type) -> str:
    return one.__module__.rpartition(".")[2]


def _text(one: type, classes: list[type]) -> str:
    tree = ast.parse(inspect.getsource(sys.modules[one.__module__]))
    (body,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == one.__name__]
    methods = [_method(node) for node in _public(body)]
    own = ast.parse("\n".join(["class _:", *methods]))
    names = {node.id for node in ast.walk(own) if isinstance(node, ast.Name)}
    if one is Client:
        bases = [each for each in classes if each is not Client]
        subject, head = (
            "The synchronous client.",
            f"class Client({', '.join(each.__name__ for each in bases)}):{_CLIENT}",
        )
        imports = [f"from dwarf_nats.sync.{_module(each)} import {each.__name__}" for each in bases]
    else:
        subject = (ast.get_docstring(tree) or "").partition("\n")[0].replace("The client", "The synchronous client")
        head = f'class {one.__name__}(SyncRequester):\n    """{_sync(ast.get_docstring(body) or "")}"""\n'
        imports = ["from dwarf_nats.sync.requester import SyncRequester"]
    found = sorted({*_imports(tree, names, one), *imports})
    text = _HEAD.format(subject=subject) + "\n".join(found) + "\n\n\n" + head + "\n" + "\n".join(methods)
    return text + ('\n\n__all__ = ["Client"]\n' if one is Client else "")


def _public(body: ast.ClassDef) -> Iterator[ast.AsyncFunctionDef]:
    """The methods to make one of. Those that are no coroutines, such as `stream`, are written by hand in `requester`."""
    for node in body.body:
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def _method(node: ast.AsyncFunctionDef) -> str:
    returns = ast.unparse(node.returns) if node.returns is not None else "None"
    iterates = returns.startswith("AsyncIterator[")
    call = f"self._async.{node.name}({', '.join(_passed(node.args))})"
    run = f"self._iterate({call})" if iterates else f"self._run({call})"
    words = _sync(ast.get_docstring(node) or "").replace("\n", "\n    ")
    lines = [
        f"def {node.name}({ast.unparse(node.args)}) -> {returns.removeprefix('Async') if iterates else returns}:",
        f'    """{words}"""' if "\n" not in words else f'    """{words}\n    """',
        f"    return {run}" if returns != "None" else f"    {run}",
    ]
    return "\n".join(f"    {line}" if line.strip() else "" for line in "\n".join(lines).split("\n")) + "\n"


def _passed(arguments: ast.arguments) -> Iterator[str]:
    """The arguments of the call: by name wherever that can be."""
    yield from (one.arg for one in arguments.posonlyargs if one.arg != "self")
    yield from (f"{one.arg}={one.arg}" for one in (*arguments.args, *arguments.kwonlyargs) if one.arg != "self")
    if arguments.kwarg is not None:
        yield f"**{arguments.kwarg.arg}"


def _sync(text: str) -> str:
    for before, after in _ASYNC_WORDS:
        text = text.replace(before, after)
    return text


def _imports(tree: ast.Module, names: set[str], one: type) -> Iterator[str]:
    """The imports that the signatures need, and the names that the module itself defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (ast.unparse(node) for each in node.names if (each.asname or each.name) in names)
        elif isinstance(node, ast.ImportFrom):
            module = f"dwarf_nats.sdk.{node.module}" if node.level else node.module
            for each in node.names:
                name = each.asname or each.name
                if name in names or (name == "AsyncIterator" and "Iterator" in names):
                    renamed = f" as {each.asname}" if each.asname else ""
                    yield f"from {module} import {each.name.removeprefix('Async')}{renamed}"
    for statement in tree.body:
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement
        name = getattr(target, "id", "") or getattr(target, "name", "")
        if name in names and name != one.__name__:
            yield f"from {one.__module__} import {name}"


def _formatted(text: str) -> str:
    """The text as ruff writes it, with imports in order."""
    for command in (["check", "--select", "I", "--fix-only", "--quiet"], ["format", "--quiet"]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(FOLDER / "client.py"), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=FOLDER,
        )
        text = ran.stdout
    return text


def main(arguments: list[str]) -> int:
    """Write the modules, or name those that differ. Returns the exit code."""
    found = render()
    if "--check" not in arguments:
        for path, text in found.items():
            path.write_text(text)
        return 0
    stale = [path.name for path, text in found.items() if not path.exists() or path.read_text() != text]
    if stale:
        told = f"{', '.join(stale)} of dwarf_nats/sync differ from the client: python -m dwarf_nats.sdk.generate_sync\n"
        sys.stderr.write(told)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
