"""Comments on the tables and their less obvious columns, for a reader of the schema; in the order in which they are shown."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class Comment:
    """`table`: what one row is. `columns`: by name, those whose name does not say it."""

    table: str
    columns: dict[str, str] = field(default_factory=dict)


INTRODUCTION = """\
Made by `python -m dwarf_nats.store.schema` from a migrated database; do not edit.
Times are microseconds since the epoch on the database's clock, unless the name says otherwise. JSON is text.\
"""
TABLES = {
    "dwarf_flows": Comment(
        "Flows, one row each. A flow that a step of another flow called (its surgraph) lies on the same shard.",
        {
            "token": "the secret part of the flow's key",
            "graph_digest": "the graph it was created with (dwarf_graphs)",
            "status": "created, running, interrupted, completed, failed or cancelled",
            "thread_id": "the first flow of its thread: itself, or the flow that it continues",
            "surgraph_flow_id": "the flow that called it",
            "surgraph_step_id": "the step that called it, and waits for it",
            "priority": "1 is the best",
            "fairness_key": "flows of one priority share workers by these keys, in proportion to their weights",
            "start_at": "its entry step is not due before",
            "time_budget_ms": "time that a task may take; null: the engine's setting",
            "baggage": "JSON of the caller, handed on to tasks",
            "notify": "who hears that it stopped",
            "idempotency_key": "empty if it has none (dwarf_keys)",
            "request_digest": "of the request with that key, to tell a repetition from another request",
            "final_state": "JSON; null in place of a large field that final_borrowed refers to",
            "final_borrowed": "JSON: large field -> the step that holds its value",
            "error": "JSON, if it failed",
            "updated_at": "of the last change of its status; grows with each",
            "root_id": "the root of its tree: itself, or the flow at the top of those that called it",
            "breakpoints": "JSON list of nodes before which it pauses",
            "trace": "the context of its root span: traceparent and, after a blank, tracestate",
            "restarted_at": "shown as its creation time, if it was restarted",
            "compensating": "the status it takes once its completed steps, and those of flows it called, are compensated",
            "compensable": "1: flows that it called have completed, and may have to be compensated with it",
            "tags": "JSON object, if it has some; a flow that was called has those of its root (dwarf_tags)",
        },
    ),
    "dwarf_steps": Comment(
        "Steps: one execution of a node of a flow each. Pending steps are the queue: ready if they were due when their row\n"
        "was last written (not_before <= updated_at), else scheduled; each kind has partial indexes of its own.",
        {
            "depth": "its place in the flow's order, with step_id",
            "token": "the secret part of the step's key",
            "url": "the task of the node",
            "state": "its input, JSON; null in place of a large field that borrowed refers to",
            "changes": "what its task changed, JSON",
            "status": "created, pending, running, interrupted, completed, failed or cancelled",
            "parked": "0: no, 1: it waits for its child flow, 2: the circuit breaker of its task is tripped,"
            " 3: it waits for an event, 4: it waits for a limit (dwarf_limit_waits), 5: it is on hold (dwarf_on_hold)",
            "attempt": "retries so far",
            "lease_seq": "the generation of its claim; a result of an older one is dropped",
            "claimed_by": "the replica that runs it (dwarf_replicas)",
            "lease_expires": "when it may be taken from that replica",
            "not_before": "when it is due",
            "priority": "of its flow, as the two that follow",
            "error": "JSON, if it failed",
            "successor_id": "the step that followed; a step that fanned out has none",
            "spawn_id": "the step that fanned out to its cohort; 0 outside one",
            "ordinal": "its branch in the cohort, from 0",
            "arrived": "1: the last step of its branch",
            "cohort_size": "branches that it fanned out to",
            "arrivals": "branches that have arrived",
            "failures": "branches that have failed",
            "cohort_error": "JSON, of the first failed branch",
            "interrupt_payload": "JSON, while it is interrupted by its task",
            "resumed": "JSON that it was resumed with",
            "subgraph_result": "JSON: the final state of the child flow it waited for",
            "subgraph_error": "JSON: the error of a child that has none",
            "parked_changes": "its changes at the time it began to wait for a child",
            "breakpoint_hit": "1: it has paused at its breakpoint",
            "borrowed": "JSON: large field -> the step that holds its value",
            "problems": "JSON list: conditions that could not be evaluated when it ended",
            "wait_event": "the event it waits for, while parked is 3, or waited for last",
            "wait_key": "and its key",
            "wait_until": "the deadline of that wait, or of its interrupt",
            "event": "JSON: how its wait for an event ended",
            "interrupt_timed_out": "1: the deadline of its interrupt passed",
            "compensates": "the completed step that it compensates",
            "reruns": "operations that made it run again: restart and restart_from",
            "attempts": "JSON list: earlier attempts that failed, with their errors and times",
            "progress": "JSON: the last progress that its worker reported before it completed",
            "progress_at": "when that was",
            "copied_from": "the step of which a fork made this copy, which is not compensated with the copy",
        },
    ),
    "dwarf_tags": Comment(
        "The tags of root flows, one row each: flows are found by them, newest first.",
        {"tag": "name=value", "created_at": "of the flow"},
    ),
    "dwarf_graphs": Comment(
        "Graphs in canonical JSON, each once; removed when no flow and no name uses them.",
        {
            "digest": "SHA-256 of the body, in hex",
            "kept_until": "until then a flow may be created without saving the graph again",
            "doomed": "the transaction that found it unused",
        },
    ),
    "dwarf_registry": Comment("The graph registry: names of workflows, on every shard."),
    "dwarf_schedules": Comment(
        "Schedules of workflows; used on shard 1.",
        {
            "body": "JSON, as it was put",
            "gone": "1 if it is deleted once the due time that is being fired is done with",
            "due_at": "the due time that fires next; null: none, or paused",
            "fire_at": "due_at with its jitter",
            "wake_at": "when a replica must look at it",
            "fired_at": "since when a due time is being fired",
            "attempts": "how often that was begun",
            "flow_key": "the flow that was created for the due time flow_due, and may not be started yet; with 'planned '"
            " before it one that may not be created yet",
            "last_due": "the youngest due time that is done with",
            "queued_at": "a due time that waits for the flow of the last run to end",
            "last_flow": "the key of the flow of the last run",
            "runs": "JSON: the last ten runs, the newest first",
            "claim": "rises when a replica takes it to fire it",
            "version": "rises with each change",
        },
    ),
    "dwarf_definitions": Comment(
        "Documents that steer the deployment, by kind and name, on shard 1.", {"body": "a JSON object"}
    ),
    "dwarf_on_hold": Comment(
        "Steps that are parked because a task or a workflow is on hold.",
        {"hold": "the hold: task:url or workflow:name"},
    ),
    "dwarf_tripped": Comment("Tasks whose circuit breaker is tripped: their steps are parked.", {"url": "the task"}),
    "dwarf_limit_counts": Comment(
        "Limits, in the database of shard 1: what is counted, one row for each limit and key that was used.",
        {
            "slot": "limit/key",
            "running": "permits (dwarf_permits), the reserved ones included",
            "reserved": "permits whose holders have not begun",
            "tokens": "beginnings that the rate allowed at that time; null: all it allows after a pause",
        },
    ),
    "dwarf_permits": Comment(
        "Permits of limits, in the database of shard 1: steps and flows that are counted.",
        {
            "permit": "limit/s<shard>-<step>, or limit/f<shard>-<flow>",
            "holder": "the step or flow",
            "generation": "of a step its lease_seq, of a flow its updated_at: it is over with that",
            "started": "0: reserved",
        },
    ),
    "dwarf_limit_waits": Comment(
        "Steps that wait for a limit: the queue of each slot, in the order of priority and turn.",
        {"because": "limit or rate", "turn": "virtual time: fair to the fairness keys of a priority"},
    ),
    "dwarf_replicas": Comment(
        "Replicas of the engine that live, or died not long ago.",
        {
            "seen_at": "of its last heartbeat",
            "shards": "how many shards it knows",
            "bus_away_since": "since when it holds its steps because NATS is away; null if it does not",
        },
    ),
    "dwarf_deployment": Comment(
        "One row: what this database is, and what the replicas agree on.",
        {
            "one": "1",
            "deployment": "the name of the deployment",
            "shard": "the number of this shard in it, from 1",
            "shards": "the agreed number of shards; 0: not yet",
            "counts": "the numbers agreed on so far, such as '2 3'; 0 among them: keys may lie on any shard",
            "definitions": "how often definitions have changed",
        },
    ),
    "dwarf_keys": Comment(
        "Idempotency keys whose home is this shard, and the flows that have them.",
        {"shard": "of the flow; 0: this one"},
    ),
    "dwarf_placed": Comment(
        "Flows made here under a key whose home is another shard.",
        {"gone": "0: no, 1: deleted, or never to be made, 2: the same, and the home of the key knows"},
    ),
    "dwarf_events": Comment(
        "Events whose home is this shard: kept for a step to come, remembered for a repetition of their id, or under way to\n"
        "the other shards.",
        {
            "key": "an event goes to the steps that wait for it with this key",
            "number": "the order in which the events of one name and key came",
            "id": "the caller's, or one that was made up",
            "repeatable": "1: the id is the caller's",
            "data": "JSON; empty once it is handed out",
            "keep_until": "until then it waits for a step, and its id counts once",
            "state": "open: not all shards were visited, kept, reserved: for a step of another shard, or done",
            "delivered": "how many steps received it, as it was answered first",
            "kept": "1: it was answered that the event is kept",
            "visited": "JSON: shard -> steps there that received it",
            "turn": "how often it was reserved",
            "shard": "the shard it is reserved for",
            "touched_at": "when a replica last took up what is left to do; null if nothing is",
        },
    ),
    "dwarf_event_visits": Comment(
        "What was done here with an event of another shard, so that nothing is done twice.",
        {
            "turn": "0: the visit to all who wait; else the number of the reservation",
            "delivered": "steps that received it",
        },
    ),
    "dwarf_event_asks": Comment(
        "Steps here that began to wait: whether other shards keep an event for them is still to be asked.",
        {"lease_seq": "of the step when it began to wait", "touched_at": "when a replica last took that up"},
    ),
    "dwarf_audit": Comment(
        "What was done to flows of this shard, and on shard 1 to all else, and by whom; removed after a time.",
        {
            "number": "made at random, so that a record is written once",
            "operation": "the subject without its prefix",
            "flow_id": "the flow it was about",
            "name": "of what it was about, if that is no flow",
            "actor": "who asked, as far as is known",
            "code": "of the refusal; 0: it was carried out, -1: it was begun, and nobody knows how it ended",
            "message": "of the refusal",
            "details": "JSON object: what was asked, and what came of it; empty if there are none",
        },
    ),
    "dwarf_retention": Comment(
        "What each retention rule has removed here.",
        {"removed": "root flows so far", "last_run": "when it was last carried out to the end"},
    ),
    "dwarf_received": Comment(
        "Messages of sources that started flows, remembered for two days, also when the flow is gone.",
        {
            "scope": "a hash of source, stream and creation time of the stream",
            "sequence": "of the message in the stream",
            "shard": "0: the message was used here; else the shard that decides whether it is used",
        },
    ),
    "dwarf_source_progress": Comment(
        "How far sources have come, in the database of shard 1.",
        {
            "origin": "the stream and its creation time; empty for a source without a stream",
            "floor": "all messages up to this sequence are dealt with",
            "rejected": "messages that could not be used",
        },
    ),
    "dwarf_outbox": Comment(
        "Flows that callers want, written by `dwarf_enqueue` in transactions of their own; a row goes with the creation of\n"
        "its flow.",
        {
            "state": "JSON",
            "options": "JSON",
            "due_at": "when it is taken up, or taken up again",
            "attempts": "those that failed",
            "reason": "why the last attempt failed",
            "rejected_at": "since when it is put aside, as it cannot be used; null if it is not",
            "sent_away": "1: its flow is made on another shard, under a receipt (dwarf_received)",
        },
    ),
    "dwarf_ids": Comment("The next id of each kind: flow, step and replica; taken in blocks."),
    "dwarf_compatibility": Comment(
        "One row: which replicas may run on this schema.",
        {"one": "1", "oldest_revision": "a replica that does not know this revision stops claiming"},
    ),
    "dwarf_schema": Comment("The newest migration that was applied."),
}
