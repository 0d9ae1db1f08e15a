"""Files from the network: by HTTPS alone, of a known SHA-256, written whole or not at all."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from spxcore.errors import require

from .files import write_atomically, writing

_SILENCE = 30  # seconds without a byte
_LONGEST = 1800  # seconds in all
_PIECE = 1 << 16


class _ByHttps(HTTPRedirectHandler):
    """Follows redirects to HTTPS alone."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise URLError(f"expected an address of HTTPS, got {url[:200]}")


def fetch(url: str, path: Path, sha256: str, limit: int) -> None:
    """Download a file to `path`, whose folder is made; nothing is left there unless its checksum is right.

    Args:
        url: where it is, by HTTPS.
        path: where it is written.
        sha256: of the file as the server has it, in hexadecimal digits.
        limit: bytes it has at most.

    Raises:
        OSError: what the network says; URLErrors are among them.
        SpxError: for another file than the one expected, or a folder that cannot be written.
    """
    _check_scheme(url)
    pieces, size, end = [], 0, time.monotonic() + _LONGEST
    with build_opener(_ByHttps).open(Request(url, headers={"User-Agent": "spx"}), timeout=_SILENCE) as answer:
        while size <= limit and (piece := answer.read(_PIECE)):
            pieces.append(piece)
            size += len(piece)
            if time.monotonic() > end:
                raise TimeoutError(f"not whole after {_LONGEST} seconds")
    require(size <= limit, url, f"at most {limit} bytes", "more")
    raw = b"".join(pieces)
    found = hashlib.sha256(raw).hexdigest()
    require(found == sha256, url, f"SHA-256 {sha256}", found, "the server gave something else")

    def write(temporary: Path) -> None:
        temporary.write_bytes(raw)

    with writing(path, "choose another --data-dir"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
