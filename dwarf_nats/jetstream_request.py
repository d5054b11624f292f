"""Requests to JetStream, with refusals in words: of a replica for its sources, and of clients and workers for large values."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import nats.errors

from dwarf_nats.errors import Unavailable
from dwarf_nats.nats_client import forbidden, watch_refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from dwarf_nats.wire.violations import Violation


async def request_jetstream(
    nc: Client, subject: str, data: bytes, *, timeout: float, remedy: str, headers: Mapping[str, str] | None = None
) -> Msg:
    """Ask the JetStream of the server; `timeout` in seconds, `remedy`: what to do if permissions refuse it.

    Raises `Forbidden`, `nats.errors.NoRespondersError` if nobody answers there, `Unavailable` for what may pass.
    """
    refused: asyncio.Future[Violation] = asyncio.get_running_loop().create_future()

    def listen(violation: Violation) -> bool:
        if violation.publish and violation.concerns(subject) and not refused.done():
            refused.set_result(violation)
            return True
        return False

    end = watch_refusals(nc, listen)
    asking = asyncio.ensure_future(
        nc.request(subject, data, timeout=timeout, headers=dict(headers) if headers else None)
    )
    try:
        waiting: set[asyncio.Future[Any]] = {asking, refused}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if refused.done():
            raise forbidden(nc, refused.result(), remedy)
        return await asking
    except nats.errors.NoRespondersError:
        raise
    except (TimeoutError, nats.errors.TimeoutError):
        raise Unavailable(f"JetStream did not answer {subject} within {timeout:g} s") from None
    except nats.errors.Error as error:
        raise Unavailable(f"the connection to NATS is down: {error}") from None
    finally:
        end()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
