"""One example of every message about schedules, by type."""

from __future__ import annotations

from typing import Any

import msgspec

from . import messages as m

CREATED, UPDATED = "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:02.500000Z"
_SCHEDULE = {
    "name": "nightly",
    "workflow": "report",
    "state": {"day": "=scheduledAt"},
    "options": {"tags": {"kind": "nightly"}},
    "cron": "0 3 * * *",
    "timezone": "Europe/Berlin",
    "jitterMs": 60000,
    "overlap": "queue",
    "catchUpMs": 3600000,
}
_RUN = {"dueAt": CREATED, "outcome": "started", "firedAt": CREATED, "flowId": "1-42"}
SCHEDULES: dict[type[msgspec.Struct], Any] = {
    m.SchedulePutRequest: {**_SCHEDULE, "from": CREATED},
    m.ScheduleRequest: {"name": "nightly"},
    m.ScheduleReply: {
        **_SCHEDULE,
        "last": [_RUN],
        "next": ["2026-02-01T02:00:00.000000Z"],
        "description": "At 03:00 every day (Europe/Berlin)",
        "createdAt": CREATED,
        "updatedAt": UPDATED,
    },
    m.ScheduleRun: _RUN,
    m.ScheduleListRequest: {"workflow": "report", "limit": 50, "cursor": "nightly"},
    m.ScheduleListReply: {
        "schedules": [
            {
                "name": "nightly",
                "workflow": "report",
                "cron": "0 3 * * *",
                "timezone": "Europe/Berlin",
                "last": [_RUN],
                "next": ["2026-02-01T02:00:00.000000Z"],
                "description": "At 03:00 every day (Europe/Berlin)",
                "createdAt": CREATED,
                "updatedAt": UPDATED,
            }
        ],
        "cursor": "nightly",
    },
    m.ScheduleBackfillRequest: {"name": "nightly", "from": CREATED, "to": UPDATED},
    m.ScheduleBackfillReply: {"fired": 7},
}
