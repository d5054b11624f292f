"""The synchronous client's operations on limits (K1).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.workflow.limit import Limit, LimitInfo


class Limits(SyncRequester):
    """Base of `Client` with the operations on limits."""

    def put_limit(self, limit: Limit) -> None:
        """Set a limit of a task or workflow, in place of the one of its name (K1). Raises `BadRequest`.

        Example: `client.put_limit(Limit(name="bank", task="charge", concurrency=5))`
        """
        self._run(self._async.put_limit(limit=limit))

    def list_limits(self) -> list[LimitInfo]:
        """Return the limits by name, with how many they count and how many wait (K1).

        Example: `limits = client.list_limits()`
        """
        return self._run(self._async.list_limits())

    def delete_limit(self, name: str) -> None:
        """Remove a limit: what waits for it may begin (K1). Raises `NotFound`.

        Example: `client.delete_limit("bank")`
        """
        self._run(self._async.delete_limit(name=name))
