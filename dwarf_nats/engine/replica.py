"""What all parts of one replica share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwarf_nats.engine.shared import Shared

if TYPE_CHECKING:
    from dwarf_nats.engine.deployment import Deployment


@dataclass(slots=True, frozen=True, kw_only=True)
class Replica(Shared):
    """What shards share, and what is known beside them: the name of the replica, and what the replicas agree on."""

    name: str
    deployment: Deployment
