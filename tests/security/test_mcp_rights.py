"""The MCP server has the rights of its NATS user, and no more."""

from __future__ import annotations

from mcp.client import Client as McpClient

from dwarf_nats.mcp.server import build_server
from tests.support.deployment import Deployment


async def test_a_tool_that_the_nats_user_may_not_use_is_refused_in_words(deployment: Deployment) -> None:
    async with McpClient(build_server(deployment.viewer)) as client:
        assert not (await client.call_tool("find_flows", {})).is_error
        refused = await client.call_tool("signal_event", {"event": "payment.settled"})
        assert refused.is_error
        text = refused.content[0].text
        assert "403: NATS permissions do not let" in text
        assert "viewer" in text
        assert "Do not repeat the call" in text
