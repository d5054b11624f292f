"""The lease of a claimed step, made longer for a node that may take longer (L1, B2)."""

from __future__ import annotations

EXTEND_LEASE = """
update dwarf_steps set lease_expires = {now} + $3
where step_id = $1 and lease_seq = $2 and status = 'running'
returning step_id
"""
