"""The table of malformed requests: each with its rule and the error that it gets.

The tests of the codecs, of both transports and of a running service take their cases from here.
"""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.errors import Unsupported
from tests.serving.protocol.malformed.both_transports import BOTH
from tests.serving.protocol.malformed.case import Malformed
from tests.serving.protocol.malformed.grpc_only import GRPC
from tests.serving.protocol.malformed.http_only import BODIES, FIELDS, HEADERS
from tests.serving.protocol.malformed.json_tensors import BINARY_TENSORS, JSON_TENSORS

MALFORMED = (*BOTH, *BODIES, *HEADERS, *FIELDS, *JSON_TENSORS, *BINARY_TENSORS, *GRPC)

OVER_HTTP = [case for case in MALFORMED if case.http]
OVER_GRPC = [case for case in MALFORMED if case.grpc]

HTTP_BODIES = [case for case in OVER_HTTP if case.http and not case.http.headers]
"""Cases for the HTTP codec, which reads no header except the length of the JSON part."""

GRPC_MESSAGES = [case for case in OVER_GRPC if isinstance(case.grpc, pb.ModelInferRequest)]
"""Cases for the gRPC codec, which takes parsed messages."""

UNSUPPORTED_OVER_HTTP = [case for case in OVER_HTTP if case.error is Unsupported]


def each(cases: list[Malformed]) -> pytest.MarkDecorator:
    """Run a test for each of these cases."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.rule)
