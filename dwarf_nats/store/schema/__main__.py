"""Write the files of the schema, from empty databases: `python -m dwarf_nats.store.schema postgresql://… sqlite://`."""

from __future__ import annotations

import asyncio
import sys

from dwarf_nats.store.schema.files import creation_of, schema_of


async def main(dsns: list[str]) -> int:
    """Write the file of each database; return the exit code."""
    if not dsns or any(dsn.startswith("-") for dsn in dsns):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    for dsn in dsns:
        for made in (creation_of, schema_of):  # the first one migrates, the second one shows what has become of it
            path, text = await made(dsn)
            path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
