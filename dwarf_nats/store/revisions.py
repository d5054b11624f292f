"""The revisions of the schema that this version knows.

They stand here once more, beside the migrations, so that a replica on a current database needs not load Alembic. A test holds
that both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from dwarf_nats.errors import Unavailable
from dwarf_nats.ports import Unusable

REVISIONS: Mapping[str, bool] = {
    "0026": True,
    "0025": True,
    "0024": True,
    "0023": True,
    "0022": True,
    "0021": True,
    "0020": True,
    "0019": True,
    "0018": True,
    "0017": True,
    "0016": True,
    "0015": True,
    "0014": True,
    "0013": True,
    "0012": True,
    "0011": False,
    "0010": False,
    "0009": True,
    "0008": True,
    "0007": True,
    "0006": False,
    "0005": False,
    "0004": False,
    "0003": False,
    "0002": False,
    "0001": False,
}
"""Every revision, the newest first, and whether older replicas may stay when a database gets it."""
HEAD = next(iter(REVISIONS))
"""The newest revision."""
OLDEST_COMPATIBLE = next(revision for revision, old_may_stay in REVISIONS.items() if not old_may_stay)
"""The oldest revision whose replicas may run on a database at the newest one."""


def is_later(revision: str | None) -> bool:
    """Say whether a revision is one that only a later version knows."""
    return revision is not None and revision not in REVISIONS


def check_revision(revision: str | None, label: str) -> None:
    """Raise `Unavailable` unless the database `label` is at the newest revision, `Unusable` if it is at a later one."""
    if is_later(revision):
        raise Unusable(
            f"the schema of {label} is at revision {revision}, of a later version than this one: upgrade this replica"
        )
    if revision != HEAD:
        raise Unavailable(
            f"the schema of {label} is at revision {revision}, this version needs {HEAD}: run dwarf-nats migrate"
        )


def compatibility() -> tuple[str, ...]:
    """The statements that write into a database of the newest revision which replicas may run on it."""
    return (
        "delete from dwarf_compatibility",
        f"insert into dwarf_compatibility (one, oldest_revision) values (1, '{OLDEST_COMPATIBLE}')",
    )
