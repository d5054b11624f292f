"""The synchronous SDK: a `Client` whose methods return results instead of awaitables.

with Client("nats://127.0.0.1:4222") as client:
    outcome = client.run("greet", {"name": "ada"})
    print(outcome.status, outcome.state)
"""

from __future__ import annotations

from dwarf_nats.sync.client import Client

__all__ = ["Client"]
