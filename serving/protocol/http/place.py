"""The paths of a model and its variants, and what an inference request is for."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

from serving.protocol.http.head import split_target

MODEL_PATH: Final = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<variant>[^/]+))?"
"""Pattern of the paths of a model, and of a variant as its version. They are split before their
parts are decoded, so an encoded / is a part of a name."""

INFER_PATH: Final = re.compile(MODEL_PATH + "/infer")

MAX_CACHED_TARGET: Final = 256
"""Maximum length of a request target whose place is kept, in bytes."""


class Place(NamedTuple):
    """The model that a request is for, and the variant if it names one."""

    model: str
    variant: str | None


def find_inference(method: bytes, target: bytes) -> Place | None:
    """Return what a request is for if it is an inference request, else None."""
    return find_place(target) if method == b"POST" else None


def find_place(target: bytes) -> Place | None:
    """Return what an inference request with this target is for; None for other targets."""
    return _find_cached(target) if len(target) <= MAX_CACHED_TARGET else _find(target)


def _find(target: bytes) -> Place | None:
    try:
        path = split_target(target).raw_path.decode("ascii")
    except ValueError:
        return None
    match = INFER_PATH.fullmatch(path)
    if match is None:
        return None
    variant = match["variant"]
    return Place(unquote(match["model"]), None if variant is None else unquote(variant))


_find_cached = lru_cache(maxsize=1024)(_find)
