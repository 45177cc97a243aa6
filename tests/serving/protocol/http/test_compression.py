from __future__ import annotations

import gzip
import tracemalloc
import zlib
from random import Random

import pytest

from serving.errors import InvalidRequest, RequestTooLarge
from serving.protocol.http.compression import MAX_MEMBERS, choose_coding, compress, decompress

TEXT = b"the same again, " * 100


def bare(body: bytes) -> bytes:
    writer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return writer.compress(body) + writer.flush()


PACKED = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    " GZip ": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "identity": TEXT,
}


@pytest.mark.parametrize("coding", PACKED)
def test_a_body_is_unpacked(coding: str) -> None:
    assert decompress(PACKED[coding], coding.encode(), len(TEXT)) == TEXT


def noise(size: int) -> bytes:
    """What does not pack."""
    return Random(0).randbytes(size)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([TEXT, TEXT], id="two"),
        pytest.param([b"", TEXT, b""], id="empty ones beside one"),
        pytest.param([b""], id="nothing"),
        pytest.param([noise(200_000)], id="one of several pieces"),
        pytest.param([noise(50_000)] * 5, id="some across pieces"),
        pytest.param([b"a"] * MAX_MEMBERS, id="as many as are taken"),
    ],
)
def test_the_members_of_a_gzip_body_are_one_body(members: list[bytes]) -> None:
    body = b"".join(map(gzip.compress, members))
    assert decompress(body, b"gzip", sum(map(len, members))) == b"".join(members)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_the_limit_is_that_of_all_members(size: int) -> None:
    body = gzip.compress(noise(size)) * 3
    assert len(decompress(body, b"gzip", 3 * size)) == 3 * size
    with pytest.raises(RequestTooLarge, match=f"is larger than {3 * size - 1} bytes"):
        decompress(body, b"gzip", 3 * size - 1)


def test_deflate_without_its_header_is_unpacked_too() -> None:
    assert decompress(bare(TEXT), b"deflate", len(TEXT)) == TEXT


ZEROS = {"gzip": gzip.compress(bytes(10**8), 9), "deflate": zlib.compress(bytes(10**8), 9)}


@pytest.mark.parametrize("coding", ZEROS)
def test_a_bomb_is_refused_before_it_is_unpacked(coding: str) -> None:
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
        (PACKED["gzip"][:-9], "gzip", "is truncated"),
        (PACKED["gzip"][:-1] + b"x", "gzip", "does not match its Content-Encoding"),
        (PACKED["deflate"][:-1], "deflate", "is truncated"),
        (PACKED["gzip"] + b"more", "gzip", "extra bytes follow"),
        (PACKED["gzip"] + bytes(100_000), "gzip", "extra bytes follow"),
        (PACKED["gzip"] + b"\x1f", "gzip", "extra bytes follow"),
        (PACKED["gzip"] + b"\x1f\x8b", "gzip", "is truncated"),
        (PACKED["gzip"] + b"\x1f\x8bmore", "gzip", "does not match its Content-Encoding"),
        (PACKED["gzip"] + PACKED["gzip"][:-1], "gzip", "is truncated"),
        (PACKED["gzip"] + PACKED["deflate"], "gzip", "extra bytes follow"),
        (PACKED["deflate"] * 2, "deflate", "extra bytes follow"),
        (PACKED["deflate"] + PACKED["gzip"], "deflate", "extra bytes follow"),
        (gzip.compress(b"") * (MAX_MEMBERS + 1), "gzip", "more than 1000 members"),
        (TEXT, "br", "must be gzip, deflate or identity, got 'br'"),
        (PACKED["gzip"], "gzip, deflate", "must be gzip, deflate or identity"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(body: bytes, coding: str, message: str) -> None:
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
    ],
)
def test_an_answer_is_coded_as_the_client_takes_it(accepted: str, coding: str | None) -> None:
    assert choose_coding(accepted.encode()) == coding


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_was_packed_is_unpacked(coding: str) -> None:
    packed, coded = compress(TEXT, coding.encode())
    assert coded == coding.encode()
    assert len(packed) < len(TEXT)
    assert decompress(packed, coded, len(TEXT)) == TEXT
