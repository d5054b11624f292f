"""Workflows in this process, on SQLite, without any server: for scripts and notebooks.

    from dwarf_nats import local

    outcome = local.run("greet.yaml", {"name": "ada"}, tasks=worker)

`run` is for one flow. `client` opens the engine for as long as you like, with the methods of `dwarf_nats.sdk.Client`. The
engine is the real one: with a file it finds its flows when the script is started again.
"""

from dwarf_nats.local.local_client import LocalClient
from dwarf_nats.local.running import client, run

__all__ = ["LocalClient", "client", "run"]
