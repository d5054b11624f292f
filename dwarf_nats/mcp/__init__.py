"""A Model Context Protocol server: operations of the service as tools for language models. Needs the extra `mcp`."""
