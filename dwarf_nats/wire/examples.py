"""One example of every message, by type, for the schemas and the AsyncAPI document."""

from __future__ import annotations

from typing import Any

import msgspec

from . import messages as m
from . import peer_messages as p
from . import task_messages as t
from .schedule_examples import SCHEDULES
from .source_examples import SOURCE_EXAMPLES

CHILD = "1-45-k1L2m3N4o5P6q7R8"
FLOW, STEP, NEXT = "1-42-a1B2c3D4e5F6g7H8", "1-43-h8G7f6E5d4C3b2A1", "1-44-Zz09Yy18Xx27Ww36"
CREATED, UPDATED = "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:02.500000Z"
_FILTERS = {
    "status": "failed",
    "workflow": "order",
    "threadKey": FLOW,
    "task": "charge",
    "fairnessKey": "acme",
    "priority": 10,
    "olderThanMs": 60000,
    "newerThanMs": 86400000,
    "shard": 1,
    "search": "card",
    "limit": 50,
}
_OPTIONS = {
    "priority": 10,
    "fairnessKey": "acme",
    "fairnessWeight": 2.0,
    "startAt": CREATED,
    "baggage": {"tenant": "acme"},
    "idempotencyKey": "order-7",
    "notify": "orders.done",
    "timeBudgetMs": 30000,
    "deleteOnCompletion": True,
    "tags": {"customer": 4711, "channel": "web", "urgent": True},
}
_STEP = {
    "stepKey": STEP,
    "stepId": 43,
    "depth": 1,
    "task": "charge",
    "attempt": 0,
    "status": "completed",
    "createdAt": CREATED,
    "updatedAt": UPDATED,
    "startedAt": CREATED,
    "predecessorId": 42,
    "successorId": 44,
}
_LIMIT = {"name": "bank", "task": "billing.charge", "by": "tag:bank", "concurrency": 4}
_GRAPH = {
    "name": "order",
    "tasks": [{"name": "reserve"}, {"name": "charge", "url": "billing.charge"}],
    "entryPoint": "reserve",
    "transitions": [{"from": "reserve", "to": "charge"}, {"from": "charge", "to": "END"}],
    "reducers": {"total": "add"},
    "annotations": {"charge": "asks the bank"},
}

_HOLD = {
    "task": "billing.charge",
    "reason": "the bank is being moved",
    "since": CREATED,
    "until": UPDATED,
    "actor": "ada@ops-1",
    "steps": 1204,
}
_WARNINGS = [
    "edge 'reserve' -> 'charge': its condition reads the field 'totl', which is named nowhere else; did you mean 'total'?"
]
EXAMPLES: dict[type[msgspec.Struct], Any] = {
    **SCHEDULES,
    m.FlowCreateRequest: {"workflow": "order", "state": {"item": "book"}, "options": _OPTIONS, "start": True},
    m.FlowCreateTaskRequest: {"task": "billing.charge", "state": {"price": 12.5}, "start": True},
    m.FlowStartRequest: {"flowKey": FLOW, "notify": "orders.done"},
    m.FlowRunRequest: {"workflow": "order", "state": {"item": "book"}, "timeoutMs": 10000},
    m.FlowWaitRequest: {"flowKey": FLOW, "timeoutMs": 10000},
    m.FlowRequest: {"flowKey": FLOW},
    m.FlowHistoryRequest: {"flowKey": FLOW, "limit": 50, "cursor": "MS40Mw"},
    m.StepRequest: {"stepKey": STEP},
    m.FlowListRequest: {**_FILTERS, "cursor": "eyJ4IjoxfQ"},
    m.FlowCountRequest: {"workflow": "order"},
    m.FlowCountReply: {"counts": {"running": 12, "failed": 1000}, "more": ["failed"]},
    m.FlowPurgeRequest: {"status": "completed", "olderThanMs": 86400000},
    m.RetentionDocument: {
        "name": "done",
        "olderThanMs": 2592000000,
        "workflow": "order",
        "status": "completed",
        "keepTagged": {"legal": "hold"},
    },
    m.RetentionRequest: {"name": "done"},
    m.RetentionPreviewRequest: {"name": "new", "olderThanMs": 2592000000},
    m.RetentionPreviewReply: {"flows": 1234, "oldest": CREATED},
    m.RetentionListReply: {
        "rules": [
            {
                "name": "done",
                "olderThanMs": 2592000000,
                "status": "completed",
                "removed": 1234,
                "updatedAt": CREATED,
                "lastRun": UPDATED,
            }
        ]
    },
    m.FlowBulkRequest: {
        "action": "cancel",
        "query": {"workflow": "order", "status": "running"},
        "reason": "recalled",
        "limit": 500,
        "cursor": "MS4xNzY5ODYwODAwMDAwMDAwLjE3Njk4NjA4MDAwMDAwMDAuNDI",
    },
    m.FlowBulkReply: {
        "matched": 500,
        "done": 499,
        "failed": [{"flowId": "1-42", "code": 409, "message": "the flow is completed"}],
        "cursor": "MS4xNzY5ODYwODAwMDAwMDAwLjE3Njk4NjA3OTAwMDAwMDAuNDE",
    },
    m.FlowCancelRequest: {"flowKey": FLOW, "reason": "changed my mind"},
    m.FlowResumeRequest: {"stepKey": STEP, "data": {"approved": True}},
    m.FlowResumeBreakRequest: {"flowKey": FLOW, "overrides": {"price": 10}},
    m.FlowOverridesRequest: {"flowKey": FLOW, "overrides": {"price": 10, "discount": None}},
    m.StepOverridesRequest: {"stepKey": STEP, "overrides": {"price": 10}},
    m.FlowForkRequest: {"stepKey": STEP, "overrides": {"price": 10}, "tags": {"customer": 4711, "again": True}},
    m.FlowTagRequest: {"flowKey": FLOW, "tags": {"invoice": "R-2026-7", "urgent": None}},
    m.FlowTagReply: {"tags": {"customer": 4711, "invoice": "R-2026-7"}},
    m.FlowBreakBeforeRequest: {"flowKey": FLOW, "task": "charge", "enabled": True},
    m.FlowContinueRequest: {"threadKey": FLOW, "state": {"item": "pen"}, "start": True},
    m.FlowSignalRequest: {
        "event": "order.paid",
        "key": "order-7",
        "data": {"amount": 12.5},
        "id": "payment-81",
        "keepMs": 3600000,
    },
    m.SignalRequest: {"key": "order-7", "data": {"amount": 12.5}},
    m.FlowSignalReply: {"delivered": 1, "kept": False},
    m.TaskBreakerRequest: {"task": "billing.charge"},
    m.GraphRequest: {"name": "order"},
    m.EmptyRequest: {},
    m.GraphDocument: _GRAPH,
    m.Empty: {},
    m.FlowKeyReply: {"flowKey": FLOW},
    m.Outcome: {
        "flowKey": FLOW,
        "workflow": "order",
        "status": "interrupted",
        "state": {"item": "book"},
        "interruptPayload": {"question": "Is 12.50 all right?"},
        "pauses": [
            {
                "stepKey": STEP,
                "task": "approve",
                "kind": "interrupt",
                "payload": {"question": "Is 12.50 all right?"},
                "since": UPDATED,
                "until": "2026-02-01T12:00:02.500000Z",
            },
        ],
    },
    m.FingerprintReply: {"fingerprint": "9f86d081884c7d65", "status": "running"},
    m.Step: {
        **_STEP,
        "state": {"price": 12.5},
        "changes": {"paid": True},
        "prevKey": FLOW,
        "nextKey": NEXT,
        "branch": {"index": 1, "count": 5, "of": "split"},
        "attempts": [
            {
                "attempt": 0,
                "startedAt": CREATED,
                "endedAt": UPDATED,
                "error": {"message": "the bank is away", "code": 503},
            }
        ],
        "problems": ["charge -> END, 'total > 1': `>` does not take (null, int), there is no such overload"],
    },
    m.HistoryReply: {
        "steps": [
            {
                **_STEP,
                "subgraph": True,
                "subWorkflow": "pay",
                "subFlowKey": CHILD,
                "subHistory": [{**_STEP, "stepKey": NEXT, "stepId": 44}],
                "truncated": True,
            },
            {**_STEP, "task": "refund", "handledError": {"message": "card declined", "code": 402}},
            {
                **_STEP,
                "task": "approve",
                "status": "interrupted",
                "pause": {"kind": "interrupt", "since": UPDATED, "payload": {"question": "Is 12.50 all right?"}},
            },
            {
                **_STEP,
                "task": "import",
                "status": "running",
                "progress": {"at": UPDATED, "fraction": 0.4, "text": "page 40 of 100", "data": {"page": 40}},
            },
        ],
        "cursor": "MS40Mw",
    },
    m.MermaidReply: {"mermaid": "flowchart TD\n  START --> reserve"},
    m.FlowGraphReply: {"graph": _GRAPH, "digest": "ab" * 32},
    m.FlowListReply: {
        "flows": [
            {
                "flowKey": FLOW,
                "threadKey": FLOW,
                "workflow": "order",
                "status": "running",
                "createdAt": CREATED,
                "updatedAt": UPDATED,
                "priority": 10,
                "task": "charge",
                "startedAt": CREATED,
                "fairnessKey": "acme",
                "waitsFor": {
                    "stepId": 43,
                    "task": "charge",
                    "reason": "running",
                    "since": CREATED,
                    "text": "Runs: its task has been asked and has not answered yet.",
                },
                "tags": {"customer": 4711},
            }
        ],
        "cursor": "eyJ4IjoxfQ",
    },
    m.ExplanationReply: {
        "flowKey": FLOW,
        "status": "running",
        "text": "charge: Attempt 1 of 5 failed: the bank is slow today (504). The next attempt follows.",
        "waits": [
            {
                "stepKey": STEP,
                "stepId": 43,
                "task": "charge",
                "url": "billing.charge",
                "reason": "retry",
                "since": CREATED,
                "until": UPDATED,
                "text": "Attempt 1 of 5 failed: the bank is slow today (504). The next attempt follows.",
                "attempt": 1,
                "maxAttempts": 5,
                "error": {"message": "the bank is slow today", "code": 504},
            },
        ],
    },
    m.FlowPurgeReply: {"deleted": 7},
    m.TaskBreakerReply: {"task": "billing.charge", "tripped": False},
    m.ShardPutRequest: {"shard": 2, "cordoned": True, "weight": 2.5},
    m.ShardPutReply: {"shard": 2, "cordoned": True, "weight": 2.5},
    m.ShardInfoReply: {
        "shards": [
            {
                "shard": 1,
                "error": "",
                "latencyMs": 0.7,
                "flows": 12,
                "steps": 48,
                "backlog": [
                    {
                        "priority": 100,
                        "steps": 3,
                        "fairnessKeys": 1,
                        "oldestMs": 250,
                        "keys": [{"fairnessKey": "acme", "steps": 3, "oldestMs": 250}],
                    }
                ],
            }
        ]
    },
    m.HealthReply: {
        "replica": "9f86d081884c7d65",
        "version": "0.1.0",
        "live": True,
        "ready": False,
        "bus": True,
        "uptimeMs": 86400000,
        "reason": "shard 2: the database is away",
        "shards": [
            {"shard": 1, "ready": True, "seenMs": 1200},
            {"shard": 2, "ready": False, "reason": "the database is away", "seenMs": 15200},
        ],
    },
    m.AuditListRequest: {"flowId": "1-42", "operation": "flow.cancel", "newerThanMs": 604800000, "limit": 50},
    m.AuditListReply: {
        "records": [
            {
                "at": UPDATED,
                "operation": "flow.cancel",
                "actor": "ada@build-7",
                "outcome": "ok",
                "flowId": "1-42",
                "reason": "changed my mind",
            },
            {
                "at": CREATED,
                "operation": "graph.delete",
                "actor": "bot",
                "outcome": "refused",
                "name": "order",
                "error": {"code": 404, "message": "there is no graph named 'order'"},
            },
        ],
        "cursor": "MTc2OS40Mg",
    },
    m.GraphPutReply: {"name": "order", "digest": "ab" * 32, "warnings": _WARNINGS},
    m.GraphValidateReply: {"warnings": _WARNINGS},
    m.GraphListReply: {"graphs": [{"name": "order", "digest": "ab" * 32, "updatedAt": UPDATED}]},
    m.LimitDocument: {**_LIMIT, "perSecond": 20.0, "burst": 40},
    m.LimitRequest: {"name": "bank"},
    m.LimitListReply: {"limits": [{**_LIMIT, "running": 8, "waiting": 214, "updatedAt": UPDATED}]},
    m.HoldPutRequest: {"task": "billing.charge", "reason": "the bank is being moved", "until": UPDATED},
    m.HoldRequest: {"workflow": "order"},
    m.Hold: _HOLD,
    m.HoldListReply: {"holds": [_HOLD]},
    m.ErrorReply: {"error": {"code": 408, "message": "the flow has not stopped within 10000 ms", "flowKey": FLOW}},
    t.TaskRequest: {
        "flowKey": FLOW,
        "stepKey": STEP,
        "workflow": "order",
        "task": "charge",
        "url": "billing.charge",
        "attempt": 0,
        "state": {"price": 12.5},
        "baggage": {"tenant": "acme"},
        "flowCreatedAt": CREATED,
        "flowUpdatedAt": UPDATED,
        "deadline": "2026-01-31T12:02:02.500000Z",
        "resumed": {"data": "yes"},
    },
    t.TaskProgress: {"fraction": 0.4, "text": "page 40 of 100", "data": {"page": 40}},
    t.TaskReply: {
        "changes": {"paid": True, "hold": None},
        "sleepMs": 250,
        "tags": {"invoice": "R-2026-7", "urgent": None},
        "retry": {
            "maxAttempts": 5,
            "initialDelayMs": 100,
            "multiplier": 2.0,
            "maxDelayMs": 5000,
            "giveUpAfterMs": 60000,
        },
        "error": {"message": "the bank is slow today", "code": 504},
    },
    t.BatchedRequest: {
        "flowKey": FLOW,
        "stepKey": STEP,
        "workflow": "order",
        "task": "charge",
        "url": "billing.charge",
        "attempt": 0,
        "state": {"price": 12.5},
        "baggage": {"tenant": "acme"},
        "flowCreatedAt": CREATED,
        "flowUpdatedAt": UPDATED,
        "deadline": "2026-01-31T12:02:02.500000Z",
        "headers": {"Dwarf-Attempt": "0", "Dwarf-Accept-Ms": "1000"},
    },
    t.BatchedReply: {"stepId": "1-43", "reply": {"changes": {"paid": True}}},
    t.WorkerCall: {"steps": ["1-42"], "cancel": ["1-43"]},
    t.WorkerReply: {"running": ["1-42"]},
    t.GraphLoadRequest: {"workflow": "order", "baggage": {"tenant": "acme"}},
    p.PeerEnqueue: {"shard": 1, "steps": [{"stepId": 43, "priority": 100, "notBefore": CREATED}]},
    p.PeerSyncValve: {"task": "billing.charge", "w": 12.5, "t": CREATED},
    p.PeerTripBreaker: {"task": "billing.charge"},
    p.PeerChangeDefinitions: {},
    p.PeerNotifyStatusChange: {"flows": [{"flowKey": FLOW, "status": "completed"}]},
    p.PeerExplain: {"id": "9f86d081884c7d65-1", "shard": 1, "stepIds": [43], "tasks": ["billing.charge"]},
    p.PeerExplained: {
        "id": "9f86d081884c7d65-1",
        "replica": "60303ae22b998861",
        "workers": 1024,
        "inUse": 17,
        "steps": [{"stepId": 43, "phase": "asking", "worker": "dwarf.worker.a1b2c3", "deadline": UPDATED}],
        "tasks": [{"task": "billing.charge", "rate": 12.5, "opensAt": UPDATED}],
    },
    p.Event: {"flowId": "1-42", "threadId": "1-42", "workflow": "order", "status": "completed", "at": UPDATED},
    **SOURCE_EXAMPLES,
}
