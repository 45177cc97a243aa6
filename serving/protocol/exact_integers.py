"""Large integers of a JSON document as they were sent.

orjson reads integers of more than 64 bits as floats, and an error would state 1.8446744073709552e19
for 18446744073709551617.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MAX_BYTES: Final = 64 * 1024
"""Maximum size of a document in which they are looked for, because that takes long."""

_LARGE: Final = re.compile(rb"\d{19}")


def read_exactly(document: bytes | memoryview) -> Any:
    """Return the value of a valid JSON document with exact integers.

    Returns None if it is too large or too deep for that, or has no large integers.
    """
    if len(document) > MAX_BYTES or _LARGE.search(document) is None:
        return None
    try:
        return json.loads(bytes(document))
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep nesting
        return None
