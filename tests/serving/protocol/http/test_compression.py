from __future__ import annotations

import gzip
import tracemalloc
import zlib
from functools import partial
from random import Random

import pytest

from serving.errors import InvalidRequest, RequestTooLarge
from serving.protocol.http import compression
from serving.protocol.http.compression import (
    MAX_CACHED_HEADER,
    MAX_MEMBERS,
    choose_coding,
    decompress,
    encode,
)
from serving.protocol.http.response import Response

# Without the time of day, so that the ids of parametrized tests are the same in every process.
to_gzip = partial(gzip.compress, mtime=0)

TEXT = b"some repeated text, " * 80


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


COMPRESSED = {
    "gzip": to_gzip(TEXT),
    "x-gzip": to_gzip(TEXT),
    " GZip ": to_gzip(TEXT),
    "deflate": zlib.compress(TEXT),
    "identity": TEXT,
}


@pytest.mark.parametrize("coding", COMPRESSED)
def test_a_body_is_decompressed(coding: str) -> None:
    assert decompress(COMPRESSED[coding], coding.encode(), len(TEXT)) == TEXT


def noise(size: int) -> bytes:
    """Return bytes that cannot be compressed."""
    return Random(0).randbytes(size)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([TEXT, TEXT], id="two members"),
        pytest.param([b"", TEXT, b""], id="empty members"),
        pytest.param([b""], id="one empty member"),
        pytest.param([noise(200_000)], id="one member of several chunks"),
        pytest.param([noise(50_000)] * 5, id="members across chunks"),
        pytest.param([b"a"] * MAX_MEMBERS, id="the maximum number"),
    ],
)
def test_the_members_of_a_gzip_body_are_joined(members: list[bytes]) -> None:
    body = b"".join(map(to_gzip, members))
    assert decompress(body, b"gzip", sum(map(len, members))) == b"".join(members)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_the_limit_applies_to_all_members_together(size: int) -> None:
    body = to_gzip(noise(size)) * 3
    assert len(decompress(body, b"gzip", 3 * size)) == 3 * size
    with pytest.raises(RequestTooLarge, match=f"is larger than {3 * size - 1} bytes"):
        decompress(body, b"gzip", 3 * size - 1)


def test_deflate_without_its_header_is_decompressed() -> None:
    assert decompress(raw_deflate(TEXT), b"deflate", len(TEXT)) == TEXT


ZEROS = {"gzip": to_gzip(bytes(10**8), 9), "deflate": zlib.compress(bytes(10**8), 9)}


@pytest.mark.parametrize("coding", ZEROS)
def test_a_decompression_bomb_is_rejected_before_it_is_decompressed(coding: str) -> None:
    tracemalloc.start()
    with pytest.raises(RequestTooLarge, match="is larger than 1000 bytes"):
        decompress(ZEROS[coding], coding.encode(), 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


@pytest.mark.parametrize(
    ("body", "coding", "message"),
    [
        (b"plain text", "gzip", "does not match its Content-Encoding"),
        (b"plain text", "deflate", "does not match its Content-Encoding"),
        (b"", "gzip", "is truncated"),
        (b"", "deflate", "is truncated"),
        (COMPRESSED["gzip"][:-9], "gzip", "is truncated"),
        (COMPRESSED["gzip"][:-1] + b"x", "gzip", "does not match its Content-Encoding"),
        (COMPRESSED["deflate"][:-1], "deflate", "is truncated"),
        (COMPRESSED["gzip"] + b"more", "gzip", "extra bytes follow"),
        (COMPRESSED["gzip"] + bytes(100_000), "gzip", "extra bytes follow"),
        (COMPRESSED["gzip"] + b"\x1f", "gzip", "extra bytes follow"),
        (COMPRESSED["gzip"] + b"\x1f\x8b", "gzip", "is truncated"),
        (COMPRESSED["gzip"] + b"\x1f\x8bmore", "gzip", "does not match its Content-Encoding"),
        (COMPRESSED["gzip"] + COMPRESSED["gzip"][:-1], "gzip", "is truncated"),
        (COMPRESSED["gzip"] + COMPRESSED["deflate"], "gzip", "extra bytes follow"),
        (COMPRESSED["deflate"] * 2, "deflate", "extra bytes follow"),
        (COMPRESSED["deflate"] + COMPRESSED["gzip"], "deflate", "extra bytes follow"),
        (to_gzip(b"") * (MAX_MEMBERS + 1), "gzip", "more than 1000 members"),
        (TEXT, "br", "must be gzip, deflate or identity, got 'br'"),
        (COMPRESSED["gzip"], "gzip, deflate", "must be gzip, deflate or identity"),
    ],
)
def test_a_corrupt_body_is_rejected(body: bytes, coding: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        decompress(body, coding.encode(), 10_000)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0.000", None),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0, *", "deflate"),
        ("identity", None),
        ("br", None),
        ("", None),
        ("gzip;q=much", "gzip"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("gzip; q=0", None),
        ("*;q=0.1, identity;q=0.5", None),
    ],
)
def test_the_coding_is_chosen_by_accept_encoding(accepted: str, coding: str | None) -> None:
    assert choose_coding(accepted.encode()).coding == coding


def test_the_coding_of_a_long_header_is_not_kept() -> None:
    compression._choose_cached.cache_clear()
    assert choose_coding(b"gzip," * MAX_CACHED_HEADER).coding == "gzip"
    assert compression._choose_cached.cache_info().currsize == 0
    assert choose_coding(b"gzip").coding == "gzip"
    assert compression._choose_cached.cache_info().currsize == 1


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", None),
        ("gzip, identity;q=0", b"gzip"),
        ("deflate, *;q=0", b"deflate"),
        ("br, identity;q=0", None),
    ],
)
def test_a_short_response_is_compressed_only_for_clients_that_accept_nothing_else(
    accepted: str, coding: bytes | None
) -> None:
    response = encode(Response(b"short"), accepted.encode())
    assert dict(response.headers).get(b"content-encoding") == coding


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_bodies_are_decompressed_again(coding: str) -> None:
    response = encode(Response(TEXT), coding.encode())
    chosen = dict(response.headers)[b"content-encoding"]
    assert chosen == coding.encode()
    assert len(response.body) < len(TEXT)
    assert decompress(response.body, chosen, len(TEXT)) == TEXT
