"""The table of operations: name, request, reply (wire: section 1)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from . import messages as m
from .subjects import endpoint_name


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `waits`: it may hold its caller for long. `keyed`: `Nats-Msg-Id` is its idempotency key."""

    name: str
    request: type[msgspec.Struct]
    reply: type[msgspec.Struct]
    waits: bool = False
    keyed: bool = False

    @property
    def endpoint(self) -> str:
        return endpoint_name(self.name)


OPERATIONS: tuple[Operation, ...] = (
    Operation("flow.create", m.FlowCreateRequest, m.FlowKeyReply, keyed=True),
    Operation("flow.create_task", m.FlowCreateTaskRequest, m.FlowKeyReply, keyed=True),
    Operation("flow.start", m.FlowStartRequest, m.Empty),
    Operation("flow.run", m.FlowRunRequest, m.Outcome, waits=True, keyed=True),
    Operation("flow.await", m.FlowWaitRequest, m.Outcome, waits=True),
    Operation("flow.poll", m.FlowWaitRequest, m.Outcome, waits=True),
    Operation("flow.snapshot", m.FlowRequest, m.Outcome),
    Operation("flow.fingerprint", m.FlowRequest, m.FingerprintReply),
    Operation("flow.history", m.FlowHistoryRequest, m.HistoryReply),
    Operation("flow.mermaid", m.FlowRequest, m.MermaidReply),
    Operation("flow.list", m.FlowListRequest, m.FlowListReply),
    Operation("flow.purge", m.FlowPurgeRequest, m.FlowPurgeReply),
    Operation("flow.delete", m.FlowRequest, m.Empty),
    Operation("flow.cancel", m.FlowCancelRequest, m.Empty),
    Operation("flow.resume", m.FlowResumeRequest, m.Empty),
    Operation("flow.resume_break", m.FlowOverridesRequest, m.Empty),
    Operation("flow.break_before", m.FlowBreakBeforeRequest, m.Empty),
    Operation("flow.restart", m.FlowOverridesRequest, m.Empty),
    Operation("flow.restart_from", m.StepOverridesRequest, m.Empty),
    Operation("flow.fork", m.StepOverridesRequest, m.FlowKeyReply),
    Operation("flow.continue", m.FlowContinueRequest, m.FlowKeyReply, keyed=True),
    Operation("step.get", m.StepRequest, m.Step),
    Operation("task.breaker", m.TaskBreakerRequest, m.TaskBreakerReply),
    Operation("shard.info", m.EmptyRequest, m.ShardInfoReply),
    Operation("graph.put", m.GraphDocument, m.GraphPutReply),
    Operation("graph.get", m.GraphRequest, m.GraphDocument),
    Operation("graph.delete", m.GraphRequest, m.Empty),
    Operation("graph.mermaid", m.GraphRequest, m.MermaidReply),
    Operation("graph.list", m.EmptyRequest, m.GraphListReply),
    Operation("graph.validate", m.GraphDocument, m.GraphValidateReply),
)
