"""Build the documentation site: `python -m docsite [--output FOLDER]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docsite.build import SiteBroken, build


def main() -> int:
    """Build the site; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docsite", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/site"), help="the folder of the site (build/site)")
    output: Path = parser.parse_args().output
    try:
        build(output)
    except SiteBroken as error:
        print(error, file=sys.stderr)
        return 1
    print(f"open it: python -m http.server --bind 127.0.0.1 --directory {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
