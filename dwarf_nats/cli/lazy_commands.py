"""Commands that are loaded from their modules when they are used, so that the list of commands loads none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer.main

from dwarf_nats.cli.command import CommandFamily, new_app


@dataclass(slots=True, frozen=True)
class LazyCommand:
    """A command, or a family of them.

    `module` has a function `register` that adds it to an app. `help`: its line in the list of commands.
    """

    module: str
    help: str


class _Commands(MutableMapping[str, Any]):
    """Commands by name, each loaded when it is asked for; for Typer, which takes a mapping."""

    def __init__(self, known: Mapping[str, LazyCommand]) -> None:
        self._known = dict(known)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            app = new_app("")
            import_module(self._known[name].module).register(app)
            self._loaded |= typer.main.get_group(app).commands
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known


def lazy_family(known: Mapping[str, LazyCommand]) -> type[CommandFamily]:
    """The class of an app whose commands are these."""

    class LazyFamily(CommandFamily):
        def __init__(self, *args: Any, **given: Any) -> None:
            super().__init__(*args, **given)
            self.commands = _Commands(known)

        def format_commands(self, _: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, one.help) for name, one in known.items()])

    return LazyFamily
