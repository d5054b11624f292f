"""The tasks of the image batch. Try them with::

    dwarf-nats dev examples/image-batch/tasks.py --graphs examples/image-batch/graphs

Images are binary PPM files, which need no library. In your program, `halved` is where Pillow comes in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dwarf_nats.sdk import Flow, TaskError, Worker

worker = Worker(name="images", concurrency=16)


@worker.task("images.find")
def find(folder: str) -> dict[str, Any]:
    """List the images of the folder; each becomes a branch."""
    return {"images": sorted(path.name for path in Path(folder).glob("*.ppm"))}


@worker.task("images.shrink")
def shrink(folder: str, image: str) -> dict[str, Any]:
    """Make one thumbnail. A step may run twice, after a crash: it then writes the same file again."""
    path = Path(folder) / image
    thumbnail = halved(path.read_bytes(), image)
    target = Path(folder) / "thumbnails" / image
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(thumbnail)
    part.replace(target)  # nobody ever sees half a file
    return {"made": 1, "bytes": len(thumbnail)}


@worker.task("images.index")
def index(flow: Flow, folder: str, made: int = 0, broken: list[str] | None = None) -> dict[str, Any]:
    """Write the index, after all branches."""
    lines = [f"{made} thumbnails", *(f"broken: {image}" for image in broken or ())]
    (Path(folder) / "thumbnails.txt").write_text("\n".join(lines) + "\n")
    flow.delete("images")  # a thousand names that nobody needs any more
    return {"index": "thumbnails.txt"}


def halved(data: bytes, name: str) -> bytes:
    """Return a binary PPM of half the width and height: each pixel is the mean of four."""
    head, _, pixels = data.partition(b"\n255\n")
    words = head.split()
    if len(words) != 3 or words[0] != b"P6" or len(pixels) != 3 * int(words[1]) * int(words[2]):
        raise TaskError(f"{name} is no binary PPM image", code=422)
    width, height = int(words[1]), int(words[2])
    small = bytearray()
    for y in range(0, height - 1, 2):
        for x in range(0, width - 1, 2):
            for colour in range(3):
                corner = 3 * (y * width + x) + colour
                below = corner + 3 * width
                small.append((pixels[corner] + pixels[corner + 3] + pixels[below] + pixels[below + 3]) // 4)
    return b"P6 %d %d\n255\n" % (width // 2, height // 2) + bytes(small)


if __name__ == "__main__":
    worker.main()
