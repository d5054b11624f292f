"""Pages of histories: the steps of a flow in order, and the first steps of flows that its steps called (O7).

Every statement reads by `dwarf_steps_flow` or `dwarf_flows_tree` and no more rows than it returns, however long a history is.
"""

from __future__ import annotations

from dwarf_nats.rules.rows import StepRow

_COLUMNS = StepRow.columns_without_texts()
PAGE = (
    f"select {_COLUMNS} from dwarf_steps where flow_id = $1 and (depth, step_id) > ($2, $3)"
    " order by depth, step_id limit $4"
)
CALLED = (
    "select surgraph_step_id, flow_id, token, workflow, graph_digest from dwarf_flows"
    " where root_id = $1 and surgraph_step_id {in:$2} and surgraph_flow_id is not null"
)
FAN_OUTS = "select step_id, node, cohort_size from dwarf_steps where step_id {in:$1}"
ENTRY = (
    f"select {_COLUMNS} from dwarf_steps where flow_id = $1 and predecessor_id is null order by depth, step_id limit 1"
)
# A step that leads nowhere is among the last ones, so that few are looked at.
LAST = (
    f"select {_COLUMNS} from dwarf_steps where flow_id = $1 and successor_id is null and cohort_size is null"
    " and compensates is null"
    " order by depth desc, step_id desc limit 1"
)
FIRST_BRANCH = (
    f"select {_COLUMNS} from dwarf_steps where spawn_id = $1 and spawn_id <> 0 and ordinal = 0 and predecessor_id = $1"
)
FIRST_STEPS_BATCH_FLOWS = (1, 8, 64)
"""Numbers of flows for which there is a statement: few texts, so that their plans are kept."""
NO_FLOW = -1
"""An id that no flow has: it fills up a statement for more flows than are wanted."""


def first_steps(flows: int) -> str:
    """Make the statement for the first `$1` steps of each of so many flows, `$2` and the following."""
    parts = (
        f"select * from (select {_COLUMNS} from dwarf_steps where flow_id = ${number}"
        f" order by depth, step_id limit $1) flow{number}"
        for number in range(2, flows + 2)
    )
    return " union all ".join(parts)
