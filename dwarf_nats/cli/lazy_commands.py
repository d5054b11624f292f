"""Commands that are loaded from their modules when they are used, so that the list of commands loads none of them.

A command that was loaded is built when it is used, too, and alone: its siblings in the same module cost nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import typer.main
from typer.models import CommandInfo, TyperInfo

from dwarf_nats.cli.command import CommandFamily, new_app, runner


@dataclass(slots=True, frozen=True)
class LazyCommand:
    """A command, or a family of them.

    `module` has a function `register` that adds it to an app, perhaps among others. `help`: its line in the list of commands.
    """

    module: str
    help: str


class _Commands(MutableMapping[str, Any]):
    """Commands by name, each made when it is asked for; for Typer, which takes a mapping."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._makers[name] = lambda: command

    def __delitem__(self, name: str) -> None:
        del self._makers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers


def lazy_family(known: Mapping[str, LazyCommand]) -> type[CommandFamily]:
    """The class of an app whose commands are these."""

    class LazyFamily(CommandFamily):
        def __init__(self, *args: Any, **given: Any) -> None:
            super().__init__(*args, **given)
            self.commands = _Commands({name: partial(_loaded, one, name) for name, one in known.items()})

        def format_commands(self, _: Any, formatter: Any) -> None:
            with formatter.section("Commands"):
                formatter.write_dl([(name, one.help) for name, one in known.items()])

    return LazyFamily


def _loaded(one: LazyCommand, name: str) -> Any:
    app = new_app("")
    import_module(one.module).register(app)
    return _makers(app)[name]()


def _makers(app: typer.Typer) -> dict[str, Callable[[], Any]]:
    """A function for each command of an app that makes it; apps that were added without a name give theirs."""
    found: dict[str, Callable[[], Any]] = {str(info.name): partial(_command, info) for info in app.registered_commands}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        if group.name:
            found[group.name] = partial(_family, group)
        else:
            found |= _makers(group.typer_instance)
    return found


def _command(info: CommandInfo) -> Any:
    assert info.callback is not None
    ready = copy.copy(info)
    ready.callback = runner(info.callback)
    return typer.main.get_command_from_info(ready, pretty_exceptions_short=False, rich_markup_mode=None)


def _family(group: TyperInfo) -> Any:
    """A family whose commands are made when they are used."""
    app = group.typer_instance
    assert app is not None
    empty, alone = copy.copy(app), copy.copy(group)
    empty.registered_commands, empty.registered_groups = [], []
    alone.typer_instance = empty
    made = typer.main.get_group_from_info(
        alone, pretty_exceptions_short=False, suggest_commands=True, rich_markup_mode=None
    )
    if not isinstance(made.commands, _Commands):
        made.commands = _Commands(_makers(app))
    return made
