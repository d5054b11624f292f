"""The synchronous client's operations on holds (K2).

Made by `python -m dwarf_nats.sdk.generate_sync`; do not edit.
"""

from __future__ import annotations

from datetime import datetime

from dwarf_nats.sync.requester import SyncRequester
from dwarf_nats.workflow.records import HoldInfo


class Holds(SyncRequester):
    """Base of `Client` with the operations that stop tasks and workflows by hand."""

    def put_hold(
        self, *, task: str = "", workflow: str = "", reason: str = "", until: datetime | None = None
    ) -> HoldInfo:
        """Stop a task, by its url, or a workflow: their steps are not dispatched until the hold is deleted, or until `until`.

        What runs goes on, and flows may be created. A hold that is there is changed and keeps its age (K2).

        Example: `hold = client.put_hold(task="charge", reason="the bank is down")`
        """
        return self._run(self._async.put_hold(task=task, workflow=workflow, reason=reason, until=until))

    def list_holds(self) -> list[HoldInfo]:
        """Return the holds, the oldest first, and how many steps each keeps (K2).

        Example: `holds = client.list_holds()`
        """
        return self._run(self._async.list_holds())

    def delete_hold(self, *, task: str = "", workflow: str = "") -> None:
        """End the hold on a task or on a workflow: the steps it kept go on. Raises `NotFound` (K2).

        Example: `client.delete_hold(task="charge")`
        """
        self._run(self._async.delete_hold(task=task, workflow=workflow))
