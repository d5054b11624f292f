"""The CEL library, loaded when the first condition is compiled: it is large, and many deployments have no conditions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


@cache
def library() -> ModuleType:
    """The module `cel_expr_python.cel`."""
    from cel_expr_python import cel

    module: ModuleType = cel
    return module
