"""A file of the algorithms of cuSPARSELt that were found fastest, by GPU, version and shape.

    AlgorithmKey ─▶ in the file? ─▶ algorithm
                          └─ no ─▶ search, tens of products on the GPU ─▶ file

The numbers of algorithms mean something else in another version of cuSPARSELt. A lost or damaged
file costs a search, never an answer.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from variants.runtime.cache import cache_folder
from variants.runtime.gpu.shapes import Arithmetic

_LOGGER: Final = logging.getLogger(__name__)


class AlgorithmKey(NamedTuple):
    """What the fastest algorithm depends on."""

    gpu: str
    library: str
    """Name and version of the library."""
    arithmetic: Arithmetic
    out: int
    columns: int
    rows: int
    """Rows of the features with padding."""

    @property
    def text(self) -> str:
        """The key in the file."""
        return "|".join(map(str, self))


class AlgorithmCache:
    """The algorithms in a file, which several processes may share."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = cache_folder() / "cusparselt.json" if file is None else file
        self._found = self._read()

    def find(self, key: AlgorithmKey, search: Callable[[], int]) -> int:
        """Return the algorithm for a key; `search` for it once and store it."""
        if key.text not in self._found:
            self._found[key.text] = search()
            self._write()
        return self._found[key.text]

    def _read(self) -> dict[str, int]:
        try:
            content = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _LOGGER.warning("%s is ignored: %s", self._file, error)
            return {}
        if not isinstance(content, dict):
            _LOGGER.warning("%s is ignored: it contains no object", self._file)
            return {}
        return {key: value for key, value in content.items() if type(value) is int and value >= 0}

    def _write(self) -> None:
        """Add what was found to the file, in one rename."""
        content = json.dumps(self._read() | self._found, indent=1, sort_keys=True)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=self._file.parent, suffix=".json")
            with os.fdopen(number, "w") as draft:
                draft.write(content)
            Path(name).replace(self._file)
        except OSError as error:  # such as a read-only home
            _LOGGER.warning("the algorithms are not kept: %s", error)
