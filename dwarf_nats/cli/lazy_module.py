"""A module of a library that is loaded when something in it is used, although the library imports it at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


class _Finder:
    """Finds one module and lets it load itself later (`LazyLoader`); after that it is gone."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        found = PathFinder.find_spec(fullname, path, target)
        if found is not None and found.loader is not None:
            found.loader = LazyLoader(found.loader)
        return found


def load_when_used(name: str) -> None:
    """Load module `name` when an attribute of it is used for the first time, if it is not loaded yet.

    For a command line, whose process is its own: a library must not change what its host imports.
    """
    if name not in sys.modules:
        sys.meta_path.insert(0, _Finder(name))
