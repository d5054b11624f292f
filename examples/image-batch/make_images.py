"""Make images to try the batch with: `python examples/image-batch/make_images.py images 1000`."""

from __future__ import annotations

import sys
from pathlib import Path


def make(folder: Path, count: int, side: int = 16) -> None:
    """Write `count` images with a colour gradient, each in another shade."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = bytes(
            value
            for y in range(side)
            for x in range(side)
            for value in (x * 255 // side, y * 255 // side, number % 256)
        )
        (folder / f"image-{number:04}.ppm").write_bytes(b"P6 %d %d\n255\n" % (side, side) + pixels)


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
