"""The loop: asyncio, talks to ports only."""

from dwarf_nats.engine.engine import Engine

__all__ = ["Engine"]
