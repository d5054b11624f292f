"""Each revision of the schema says whether older replicas may stay, in its module and to operators."""

from __future__ import annotations

import re
from pathlib import Path

from dwarf_nats.store import upgrade
from dwarf_nats.store.revisions import HEAD, OLDEST_COMPATIBLE, REVISIONS
from dwarf_nats.store.store import SqlStore

UPGRADING = Path(__file__).parents[2] / "docs/operating/upgrading.md"


def told() -> dict[str, bool]:
    """What the table of the page says of each revision; its first row speaks of all before, too."""
    page = UPGRADING.read_text().partition("| up to revision |")[2]
    rows = re.findall(r"^ *\| (\d{4}(?:, \d{4})*) \| (.*) \|$", page, re.MULTILINE)
    found: dict[str, bool] = {}
    for place, (revisions, text) in enumerate(rows):
        assert text.startswith(("restart them one by one", "stop all replicas")), text
        numbers = revisions.split(", ")
        if not place:
            numbers = [f"{one:04}" for one in range(1, int(numbers[-1]) + 1)]
        found |= dict.fromkeys(numbers, text.startswith("restart"))
    return found


def test_every_revision_says_whether_old_replicas_may_stay_and_the_page_says_the_same() -> None:
    scripts = list(upgrade.scripts().walk_revisions())
    silent = [one.revision for one in scripts if not hasattr(one.module, "old_replicas_may_stay")]
    assert silent == [], "write old_replicas_may_stay = True or False into the module of the revision"
    assert told() == dict(sorted(REVISIONS.items()))
    assert list(REVISIONS) == [one.revision for one in scripts]
    assert {one.revision: one.module.old_replicas_may_stay for one in scripts} == REVISIONS


async def test_the_database_knows_the_oldest_replica_that_may_stay(store: SqlStore) -> None:
    ((revision, oldest),) = await store.database.fetch(
        "select version_num, (select oldest_revision from dwarf_compatibility) from dwarf_schema"
    )
    assert revision == HEAD
    assert oldest == OLDEST_COMPATIBLE == max(one for one, stays in told().items() if not stays)
    assert await store.deployment.newer_schema() is None
