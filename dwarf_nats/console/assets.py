"""The stylesheet and the script: each put together from its parts, compressed once, under an address with its digest."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_STATIC = Path(__file__).with_name("static")
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"


@dataclass(slots=True, frozen=True)
class Asset:
    """One file as it is served."""

    name: str
    kind: str
    body: bytes
    packed: bytes

    @classmethod
    def of(cls, stem: str, kind: str, body: bytes) -> Asset:
        digest = hashlib.sha256(body).hexdigest()[:12]
        return cls(f"{stem}.{digest}.{kind}", kind, body, gzip.compress(body, mtime=0))

    @property
    def address(self) -> str:
        return f"/static/{self.name}"


def load() -> dict[str, Asset]:
    """The assets by their plain names. The parts of stylesheet and script are joined in the order of their names."""
    found = {
        f"console.{kind}": Asset.of("console", kind, b"\n".join(path.read_bytes() for path in _parts(kind)))
        for kind in ("css", "js")
    }
    for path in sorted(_STATIC.glob("*.svg")):
        found[path.name] = Asset.of(path.stem, "svg", path.read_bytes())
    return found


def _parts(kind: str) -> list[Path]:
    return sorted((_STATIC / kind).glob(f"*.{kind}"))


def route(assets: dict[str, Asset]) -> Route:
    """The route of all assets."""
    by_name = {one.name: one for one in assets.values()}

    async def serve(request: Request) -> Response:
        asset = by_name.get(request.path_params["name"])
        if asset is None:
            return Response("no such file\n", status_code=404, media_type="text/plain")
        headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(
                asset.packed, media_type=_TYPES[asset.kind], headers={**headers, "Content-Encoding": "gzip"}
            )
        return Response(asset.body, media_type=_TYPES[asset.kind], headers=headers)

    return Route("/static/{name}", serve)
