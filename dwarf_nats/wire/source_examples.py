"""Examples of the messages about sources and outboxes; `examples` has them, too."""

from __future__ import annotations

from typing import Any

import msgspec

from . import messages as m

_UPDATED, _LATER = "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:02.500000Z"
_SOURCE = {
    "name": "orders",
    "subject": "orders.placed.*",
    "stream": "ORDERS",
    "start": {
        "workflow": "order",
        "state": {"order": "=data", "placedAt": "=time"},
        "options": {"fairnessKey": "=data.customer", "tags": {"channel": "=headers['x-channel']"}},
    },
}
SOURCE_EXAMPLES: dict[type[msgspec.Struct], Any] = {
    m.SourcePutRequest: _SOURCE,
    m.SourceRequest: {"name": "orders"},
    m.SourceReply: {
        **_SOURCE,
        "updatedAt": _UPDATED,
        "state": "running",
        "pending": 12,
        "inHand": 3,
        "rejected": 1,
        "lastError": "the body of the message is not valid JSON: unexpected character: line 1 column 1 (char 0)",
        "lastErrorAt": _LATER,
    },
    m.SourceListReply: {
        "sources": [
            {
                "name": "payments",
                "subject": "payments.received",
                "signal": {"event": "order.paid", "key": "=string(data.order)"},
                "updatedAt": _UPDATED,
                "state": "waiting",
                "reason": "the connection to NATS is down",
            }
        ]
    },
    m.Rejected: {
        "source": "orders",
        "stream": "ORDERS",
        "sequence": 4711,
        "subject": "orders.placed.web",
        "reason": "the body of the message is not valid JSON: unexpected character: line 1 column 1 (char 0)",
        "at": _LATER,
    },
    m.OutboxListRequest: {"rejected": True, "limit": 50, "cursor": "1-42"},
    m.OutboxRequest: {"row": "1-42"},
    m.OutboxListReply: {
        "rows": [
            {
                "row": "1-42",
                "workflow": "order",
                "createdAt": _UPDATED,
                "attempts": 1,
                "reason": "the options has an unknown field `prio`; did you mean `priority`?",
                "rejectedAt": _LATER,
            }
        ],
        "cursor": "1-42",
    },
}
