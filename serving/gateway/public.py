"""What anyone may read of an error: without the folders and addresses of the service."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>.,:;)]", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
_QUOTED: Final = re.compile(r"(?P<quote>['\"])(?P<path>/[^'\"]*)(?P=quote)")
_PATH: Final = re.compile(r"(?<![\w./])/[^\s'\"<>,:;()]+")


def public(error: str) -> str:
    """Return the text with the last component of each absolute path, and without addresses.

    Of a URL, the last component remains if it has a path. Admin API and log have the full text.
    """
    error = _URL.sub(lambda match: _last(match[0].partition("://")[2], is_url=True), error)
    error = _ADDRESS.sub("(address)", error)
    error = _QUOTED.sub(lambda match: match["quote"] + _last(match["path"]) + match["quote"], error)
    return _PATH.sub(lambda match: _last(match[0]), error)


def _last(path: str, *, is_url: bool = False) -> str:
    if is_url and "/" not in path.rstrip("/"):
        return "(address)"
    return PurePosixPath(path).name or "/"
