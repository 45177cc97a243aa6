"""The metrics in the format that a client asks for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from serving.protocol.http.preferences import read_preferences
from serving.protocol.http.response import Response

_OPENMETRICS = "application/openmetrics-text"
_TEXT = ("text/plain", "text/*", "*/*")


def expose(registry: CollectorRegistry, accept: bytes) -> Response:
    """Return the metrics as OpenMetrics or as text, by the header Accept.

    Text of version 0.0.4 is the default, and what a client gets that accepts neither: every scraper
    reads it.
    """
    encoder, content_type = choose_encoder(_choose(accept))
    return Response(encoder(registry), content_type.encode(), headers=[(b"vary", b"accept")])


def _choose(accept: bytes) -> str:
    """Return the media type that the client prefers, of those that exist, or an empty text.

    prometheus_client takes the first that it knows, whatever the weights are.
    """
    for item in read_preferences(accept):
        media_type = item.name + item.parameters
        if item.weight > 0 and item.name in (_OPENMETRICS, *_TEXT) and _is_known(media_type):
            return media_type
    return ""


def _is_known(media_type: str) -> bool:
    try:
        _, content_type = choose_encoder(media_type)
    except (ValueError, TypeError):  # the version is not a number
        return False
    return content_type.startswith(media_type.partition(";")[0]) or "*" in media_type
