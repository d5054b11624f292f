"""The actor: who asked for the operation that is being carried out (M3)."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

MAX_ACTOR_CHARS = 256
"""Length of an actor; a longer one is cut, since it is kept with every record."""
_ACTOR: ContextVar[str] = ContextVar("dwarf_actor", default="")


def current_actor() -> str:
    """The actor of the current request; empty if it named none, or if no request is being carried out."""
    return _ACTOR.get()


@contextmanager
def acting(actor: str) -> Iterator[None]:
    """Let `actor` be the current actor, in this task and in those begun inside. Unprintable text is made printable."""
    token = _ACTOR.set(printable_actor(actor) if actor else "")
    try:
        yield
    finally:
        _ACTOR.reset(token)


def printable_actor(text: str) -> str:
    """An actor in one line without control characters, at most `MAX_ACTOR_CHARS` long."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * MAX_ACTOR_CHARS])
    return " ".join(line.split())[:MAX_ACTOR_CHARS]


def system_actor() -> str:
    """The operating system's user and host, `ada@build-7`; the user's number if it has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return printable_actor(f"{user}@{socket.gethostname()}")
