"""Errors of Pydantic AI as errors of steps: which are tried again, and which hold the steps of a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelHTTPError,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
    UserError,
)

from dwarf_nats.workflow.task_error import TaskError

HELD = (429, 503, 529)
"""Codes that the engine answers with patience: it asks more slowly, or holds the steps until the provider serves again."""
VALIDATORS_HINT = (
    ": let the agent's output_type be [Output, DeferredToolRequests], so that a run may end with calls of tools"
)
TRANSIENT = (408, 409, 425)


@contextmanager
def step_errors() -> Iterator[None]:
    """Turn errors of Pydantic AI into errors of the step."""
    try:
        yield
    except ModelHTTPError as error:
        raise _of_provider(error) from error
    except ModelAPIError as error:  # no connection, for example
        raise TaskError(f"the model provider did not answer: {error}", 502) from error
    except UsageLimitExceeded as error:
        raise TaskError(f"usage limit: {error}", 400, final=True) from error
    except UserError as error:
        hint = VALIDATORS_HINT if "output validators" in str(error) else ""
        raise TaskError(f"{error}{hint}", 400, final=True) from error
    except UnexpectedModelBehavior as error:
        raise TaskError(f"the model behaves unexpectedly: {error}", 502) from error


def _of_provider(error: ModelHTTPError) -> TaskError:
    status = error.status_code
    if status in HELD:
        return TaskError(str(error), status)
    if status in TRANSIENT or status >= 500:
        return TaskError(str(error), 502, status=status)
    return TaskError(str(error), 400, status=status, final=True)
