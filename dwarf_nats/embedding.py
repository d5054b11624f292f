"""The former name of `library`, kept for programs that import it."""

from dwarf_nats.library import add_shard, check_dsns, open_engine

__all__ = ["add_shard", "check_dsns", "open_engine"]
