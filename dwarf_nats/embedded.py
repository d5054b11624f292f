"""The old name of `dwarf_nats.dev_servers`, kept for imports."""

from dwarf_nats.child_process import ChildProcess as Child
from dwarf_nats.dev_servers import NatsServer, PostgresServer, nats_binary, postgres_install

__all__ = ["Child", "NatsServer", "PostgresServer", "nats_binary", "postgres_install"]
