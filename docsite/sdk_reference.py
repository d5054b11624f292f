"""The reference of the Python SDK, `docs/python-reference.md`, generated from signatures and docstrings.

python -m docsite.sdk_reference          write it
python -m docsite.sdk_reference --check  check that it is up to date
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dwarf_nats import local, pydantic_ai, sdk, testing
from dwarf_nats.errors import DwarfError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python-reference.md"
CLASSES = ("Client", "Worker", "Flow", "Workflow", "WorkflowNode", "Graph", "FlowStream", "Codec")
"""The classes whose methods are described one by one, in the order of the page."""
INSIDE = {
    "Graph": {
        "add_action",
        "defects",
        "fan_in_of",
        "find_node",
        "is_fan_out",
        "leaving",
        "placed",
        "straight",
        "from_origin",
    },
    "Workflow": {"begun", "facts", "join", "part"},
    "Flow": {"answer", "from_call"},
    "Codec": {"opened"},
}
"""Public names that other parts of the package use, and programs do not need."""
FURTHER = {
    "dwarf_nats.local": (
        local,
        "Workflows in this process, see [scripts](local.md). The examples of [`Client`](#client) hold for `LocalClient`.",
    ),
    "dwarf_nats.testing": (testing, "The test kit. [Testing](testing.md) introduces it."),
    "dwarf_nats.pydantic_ai": (
        pydantic_ai,
        "Durable agents, with the extra `pydantic-ai`. [Agents](agents.md) introduces it.",
    ),
}
"""Further modules, after the SDK, with their introductions."""
_INTRODUCTION = """\
# The Python SDK: reference

*Made by `python -m docsite.sdk_reference` from the source; do not edit.*

For Python developers: each public name of `dwarf_nats.sdk`, with signature, errors and an example. After them come
[`dwarf_nats.local`](#dwarf_natslocal), [`dwarf_nats.testing`](#dwarf_natstesting) and
[`dwarf_nats.pydantic_ai`](#dwarf_natspydantic_ai). To learn the SDK, read
[the Python SDK](python-sdk.md). All names but `main` and `serve` are in `dwarf_nats`, too. The synchronous
[`dwarf_nats.sync.Client`](synchronous-client.md) has the methods of `Client`, without `await`.
"""
_CODES = re.compile(r" ?\((?:[A-Z]\d+(?:[-–][A-Z]?\d+)?|wire section \d|semantics: [^)]*)(?:[,;] [^)]*)?\)")
_MORE_CODES = re.compile(r"(?<=\()[A-Z]\d+(?:, [A-Z]\d+)*[,;] ")
_EXAMPLE = re.compile(r"^Example: `(.+)`$", re.MULTILINE)


def render() -> str:
    """The text of the page."""
    parts = [_INTRODUCTION]
    for name in CLASSES:
        parts.append(_class(name, getattr(sdk, name)))
    records = [name for name in sdk.__all__ if name not in CLASSES and _fields(getattr(sdk, name))]
    kinds = [
        name
        for name in sdk.__all__
        if inspect.isclass(getattr(sdk, name)) and issubclass(getattr(sdk, name), enum.Enum)
    ]
    wrong = [
        name
        for name in sdk.__all__
        if inspect.isclass(getattr(sdk, name)) and issubclass(getattr(sdk, name), Exception)
    ]
    done = {*CLASSES, *records, *kinds, *wrong}
    parts.append("## Errors\n\n" + "\n".join(_errors(wrong)))
    parts.append(
        "## Functions and constants\n\n" + "\n\n".join(_other(name) for name in sdk.__all__ if name not in done)
    )
    parts.append("## Values\n\n" + "\n\n".join(_enum(name) for name in kinds))
    parts.append("## Records\n\n" + "\n\n".join(_record(name) for name in records))
    parts += [_module(name, module, words) for name, (module, words) in FURTHER.items()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def public_members(name: str) -> list[tuple[str, Any]]:
    """The members of a class that the page describes, in the order of the source, those of base classes after its own."""
    return _members(name, getattr(sdk, name))


def _members(name: str, one: type) -> list[tuple[str, Any]]:
    left_out = set(INSIDE.get(name, ())) | (
        INSIDE["Graph"] | _names(sdk.Graph) - _own(one) if name == "Workflow" else set()
    )
    found: dict[str, Any] = {}
    for base in one.__mro__:
        if base.__module__.startswith("dwarf_nats"):
            for key, member in vars(base).items():
                if key[0] != "_" and key not in left_out and _is_described(member):
                    found.setdefault(key, member)
    return list(found.items())


def examples(name: str) -> Iterator[tuple[str, str]]:
    """The methods of a class with the line that each shows as its example."""
    for key, member in public_members(name):
        if (shown := _EXAMPLE.search(inspect.getdoc(_plain(member)) or "")) is not None:
            yield key, shown[1]


def _names(one: type) -> set[str]:
    return {key for base in one.__mro__ for key in vars(base) if key[0] != "_"}


def _own(one: type) -> set[str]:
    return {key for key in vars(one) if key[0] != "_"}


def _is_described(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)


def _plain(member: Any) -> Any:
    return member.__func__ if isinstance(member, classmethod | staticmethod) else member


def _class(name: str, one: type) -> str:
    lines = [f"## {name}", "", _signature(name, one), "", _text(inspect.getdoc(one) or "")]
    for key, member in _members(name, one):
        if isinstance(member, property):
            returned = inspect.signature(member.fget).return_annotation if member.fget is not None else ""
            lines += [
                "",
                f"### {name}.{key}",
                "",
                f"`{key}: {_shown(returned)}`",
                "",
                _text(inspect.getdoc(member) or ""),
            ]
        else:
            plain = _plain(member)
            lines += ["", f"### {name}.{key}", "", _signature(key, plain), "", _text(inspect.getdoc(plain) or "")]
    return "\n".join(lines)


def _module(name: str, module: Any, words: str) -> str:
    """A further module: its functions, and its classes with their members, one level below those of the SDK."""
    lines = [f"## {name}", "", words]
    for key in module.__all__:
        one = getattr(module, key)
        if not inspect.isclass(one):
            lines += ["", f"### {key}", "", _signature(key, inspect.unwrap(one)), "", _text(inspect.getdoc(one) or "")]
        elif issubclass(one, Exception):
            lines += ["", f"### {key}", "", _text(inspect.getdoc(one) or "")]
        elif _fields(one):
            lines += ["", _record_of(key, one)]
        else:
            lines += ["", re.sub(r"(?m)^(##+) ", r"#\1 ", _class(key, one))]
    return "\n".join(lines)


def _signature(name: str, one: Any) -> str:
    """The signature as a block, a parameter a line where it is long."""
    found = inspect.signature(one)
    shown = [_shown(each) for each in found.parameters.values() if each.name not in ("self", "cls")]
    kinds = [each.kind for each in found.parameters.values() if each.name not in ("self", "cls")]
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        last = max(at for at, kind in enumerate(kinds) if kind is inspect.Parameter.POSITIONAL_ONLY)
        shown.insert(last + 1, "/")
        kinds.insert(last + 1, inspect.Parameter.POSITIONAL_ONLY)
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        shown.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returned = (
        ""
        if inspect.isclass(one) or found.return_annotation is found.empty
        else f" -> {_shown(found.return_annotation)}"
    )
    begin = "async " if inspect.iscoroutinefunction(one) else ""
    whole = f"{begin}{name}({', '.join(shown)}){returned}"
    if len(whole) > 100:
        inside = "".join(f"    {each},\n" for each in shown)
        whole = f"{begin}{name}(\n{inside}){returned}"
    return f"```text\n{whole}\n```"


def _shown(given: Any) -> str:
    """A parameter or an annotation as it is written, without modules."""
    if isinstance(given, inspect.Parameter):
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(given.kind, "")
        kind = "" if given.annotation is given.empty else f": {_shown(given.annotation)}"
        default = "…" if " at 0x" in repr(given.default) else repr(given.default)
        return f"{stars}{given.name}{kind}" + ("" if given.default is given.empty else f" = {default}")
    text = given if isinstance(given, str) else inspect.formatannotation(given)
    return re.sub(r"\b(?:dwarf_nats|collections|typing)(?:\.\w+)*\.(?=\w)", "", text)


def _text(doc: str) -> str:
    """A docstring as Markdown: without codes of rules, code as blocks, the example as a line of its own."""
    doc = _MORE_CODES.sub("", _CODES.sub("", doc))
    doc = _EXAMPLE.sub(lambda found: f"Example: `{found[1]}`", doc)
    doc = re.sub(r"(?m)^(Raises? )", r"\1", doc)
    lines: list[str] = []
    inside = False
    for line in doc.split("\n"):
        code = line.startswith("    ")
        if code and not inside:
            lines[-1:] = ["```text"] if lines and not lines[-1] else [*lines[-1:], "```text"]
            inside = True
        elif inside and not code and line:
            _close(lines)
            inside = False
        lines.append(line[4:] if code else line.removesuffix(":") if line.endswith("::") else line)
    if inside:
        _close(lines)
    return "\n".join(lines).replace("\n```text", "\n\n```text").strip()


def _close(lines: list[str]) -> None:
    while lines and not lines[-1]:
        lines.pop()
    lines += ["```", ""]


def _errors(names: list[str]) -> Iterator[str]:
    yield "| error | code | meaning |\n|---|---|---|"
    for name in names:
        one = getattr(sdk, name)
        code = str(one.code) if issubclass(one, DwarfError) and "code" in vars(one) else ""
        yield f"| `{name}` | {code} | {' '.join(_text((inspect.getdoc(one) or '').partition('::')[0]).split())} |"


def _enum(name: str) -> str:
    one = getattr(sdk, name)
    values = ", ".join(f"`{each.value}`" for each in one)
    return f"### {name}\n\n{_text(inspect.getdoc(one) or '')}\n\n{values}"


def _record(name: str) -> str:
    return _record_of(name, getattr(sdk, name))


def _record_of(name: str, one: Any) -> str:
    rows = "\n".join(f"| `{field}` | `{kind}` |" for field, kind in _fields(one))
    doc = "" if (inspect.getdoc(one) or "").startswith(f"{name}(") else _text(inspect.getdoc(one) or "")
    more = "\n\n".join(
        f"**`{key}`** {' '.join(_text(inspect.getdoc(_plain(member)) or '').split(chr(10) * 2)[:1])}"
        for key, member in vars(one).items()
        if key[0] != "_" and _is_described(member) and inspect.getdoc(_plain(member))
    )
    return f"### {name}\n\n{doc}\n\n| field | type |\n|---|---|\n{rows}" + (f"\n\n{more}" if more else "")


def _fields(one: Any) -> list[tuple[str, str]]:
    if not inspect.isclass(one) or issubclass(one, Exception):
        return []
    if dataclasses.is_dataclass(one):
        found = [(each.name, each.type) for each in dataclasses.fields(one)]
    elif issubclass(one, msgspec.Struct):
        found = [(name, one.__annotations__.get(name, "")) for name in one.__struct_fields__]
    elif hasattr(one, "_fields"):
        found = [(name, one.__annotations__[name]) for name in one._fields]
    else:
        return []
    return [(name, _shown(kind).replace("|", "\\|")) for name, kind in found if name != "_"]


def _other(name: str) -> str:
    one = getattr(sdk, name)
    if inspect.isfunction(one):
        return f"### {name}\n\n{_signature(name, one)}\n\n{_text(inspect.getdoc(one) or '')}"
    if inspect.isclass(one):
        return f"### {name}\n\n{_text(inspect.getdoc(one) or '')}"
    return f"### {name}\n\n{_CONSTANTS[name]}"


_CONSTANTS = {
    "END": 'The end of a flow, as the target of an edge: `graph.add_chain("charge", END)`.',
    "WholeState": (
        "`order: WholeState[Order]` makes a parameter of a task take the [whole state](python-types.md#the-whole-state)."
    ),
}


def main(arguments: list[str]) -> int:
    """Write the page, or compare it. Returns the exit code."""
    text = render()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("docs/python-reference.md differs from the SDK: python -m docsite.sdk_reference\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
