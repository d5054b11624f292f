"""Which pages the site has, and in which order."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "docs",
    "deploy",
    "examples",
    "schemas",
    "changes",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "Dockerfile",
)
"""Files and folders that the site copies, to the same places: so links between files work in both."""
LEFT_OUT = ("node_modules", "__pycache__")
NAVIGATION: dict[str, list[str]] = {
    "Start": [
        "index.md",
        "docs/getting-started.md",
        "docs/concepts.md",
        "docs/console.md",
        "docs/comparison.md",
        "docs/glossary.md",
    ],
    "How to": [
        "docs/how-to/README.md",
        "docs/how-to/retry.md",
        "docs/how-to/time-out.md",
        "docs/how-to/approve.md",
        "docs/how-to/wait-for-an-event.md",
        "docs/how-to/run-nightly.md",
        "docs/how-to/call-a-service.md",
        "docs/how-to/fan-out.md",
        "docs/how-to/compensate.md",
        "docs/how-to/limit-a-partner.md",
        "docs/how-to/page-through-results.md",
        "docs/how-to/test.md",
        "docs/how-to/find-out-why.md",
        "docs/how-to/deploy.md",
        "docs/how-to/upgrade.md",
        "docs/how-to/secure.md",
        "docs/how-to/from-langgraph.md",
        "docs/how-to/from-temporal.md",
        "docs/how-to/from-celery.md",
    ],
    "Write workflows": [
        "docs/graph-files.md",
        "docs/nodes.md",
        "docs/conditions.md",
        "docs/limits.md",
        "docs/existing-services.md",
        "docs/events.md",
        "docs/schedules.md",
        "docs/sources.md",
        "docs/compensation.md",
        "docs/diagrams.md",
        "docs/states.md",
        "examples/no-code/README.md",
    ],
    "Write services": [
        "docs/task-services.md",
        "docs/python-sdk.md",
        "docs/workflows-in-python.md",
        "docs/python-types.md",
        "docs/streaming.md",
        "docs/sealed-fields.md",
        "docs/agents.md",
        "examples/agent/README.md",
        "docs/library.md",
    ],
    "Look after flows": [
        "docs/console-flow.md",
        "docs/why-a-flow-waits.md",
        "docs/holds.md",
        "docs/bulk.md",
        "docs/command-line.md",
        "docs/mcp.md",
    ],
    "Operate": [
        "docs/operating/README.md",
        "docs/configuration.md",
        "docs/operating/configuration.md",
        "docs/operating/security.md",
        "docs/operating/health.md",
        "docs/operating/telemetry.md",
        "docs/operating/metrics.md",
        "docs/operating/limits.md",
        "docs/operating/retention.md",
        "docs/operating/sizing.md",
        "docs/operating/runbook.md",
        "docs/operating/backup-and-restore.md",
        "docs/operating/upgrading.md",
        "docs/operating/production-checklist.md",
    ],
    "Reference": ["docs/wire-protocol.md", "docs/semantics.md", "docs/benchmarks.md", "CHANGELOG.md"],
    "Contribute": ["CONTRIBUTING.md", "docs/design/README.md", "SECURITY.md"],
}
"""The pages by who reads them. A page of `docs/` that is missing here fails a test; design notes have their own index."""
