"""The registers that have a page, in the order of the rail. A page appears once its operations are there.

To add one, describe it in a module of this package, and add it here; docs/design/0048-register-pages.md has an example.
"""

from __future__ import annotations

from .audit import AUDIT
from .graphs import GRAPHS
from .holds import HOLDS
from .limits import LIMITS
from .register import Register
from .retention import RETENTION
from .schedules import SCHEDULES
from .sources import SOURCES

REGISTERS: tuple[Register, ...] = (SCHEDULES, SOURCES, LIMITS, HOLDS, RETENTION, GRAPHS, AUDIT)
REGISTER_OPERATIONS: tuple[str, ...] = tuple(name for one in REGISTERS for name in one.operations)
"""All operations on registers, of which the console asks whether its user may publish them."""
