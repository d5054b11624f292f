"""The availability of the database of a shard."""

from __future__ import annotations


class Availability:
    """The availability of the database of one shard, as this replica has seen it last.

    The fetcher, the heartbeat and the start of the engine report what they find.
    """

    def __init__(self) -> None:
        self.reason = ""
        """The reason why the database is taken to be away; empty if it answers."""
        self.heard_at = 0
        """Time of the last heartbeat that was answered, in microseconds since the epoch; 0 if the database is not open."""
        self.outages = 0
        """Polls, heartbeats and commits that have failed so far."""

    @property
    def is_away(self) -> bool:
        """Tell whether the database is taken to be away."""
        return bool(self.reason)

    def report_answer(self) -> None:
        """The database has answered."""
        self.reason = ""

    def report_away(self, reason: str) -> None:
        """The database cannot be reached, or could not be opened."""
        self.reason = reason

    def count_outage(self) -> None:
        """A poll, heartbeat or commit has failed: this replica may hold leases that it does not know of (B6)."""
        self.outages += 1
