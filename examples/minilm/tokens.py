"""From text to token ids as BERT has them: lower case, without accents, cut into word pieces.

Devlin et al. 2019 (arXiv:1810.04805); the greedy search for pieces is Wu et al.'s (2016,
arXiv:1609.08144). Plain Python: a client of the service can use it as it is.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
CONTINUED: Final = "##"
"""What a piece begins with that does not begin a word."""

_CONTROL: Final = ("Cc", "Cf", "Co", "Cs")
_LONGEST_WORD: Final = 100
_IDEOGRAPHS: Final = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""Unicode's blocks of them: each is a word of its own."""


class Tokenizer:
    """Knows a vocabulary: one piece per id, the special ones among them."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}
        if missing := [one for one in (PAD, UNKNOWN, START, END) if one not in self._ids]:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a vocabulary of one piece per line, UTF-8."""
        return cls(path.read_text(encoding="utf-8").splitlines())

    def pieces(self, text: str) -> list[str]:
        """Return the text's pieces, without the special ones around them."""
        return [piece for word in _words(_clean(text)) for piece in self._cut(word)]

    def encode(self, texts: Sequence[str], longest: int) -> dict[str, NDArray[np.int64]]:
        """Return `input_ids` and `attention_mask`, INT64 `[n, tokens]`, for a request.

        Shorter texts are padded to the longest of them; what goes beyond `longest` is cut off.
        """
        rows = [
            [self._ids[one] for one in (START, *self.pieces(text)[: longest - 2], END)]
            for text in texts
        ]
        shape = len(rows), max(map(len, rows))
        ids, mask = np.full(shape, self._ids[PAD]), np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _cut(self, word: str) -> list[str]:
        """Return the longest piece that the word begins with, then of what is left, and so on."""
        if len(word) > _LONGEST_WORD:
            return [UNKNOWN]
        found: list[str] = []
        start = 0
        while start < len(word):
            prefix = CONTINUED if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), None)
            if end is None:
                return [UNKNOWN]
            found.append(prefix + word[start:end])
            start = end
        return found


def _clean(text: str) -> str:
    """Lower the case, drop accents and control characters, and make every blank a space."""
    visible = "".join(
        " " if one.isspace() else one
        for one in text
        if one.isspace() or not (unicodedata.category(one) in _CONTROL or one == "\ufffd")
    )
    spaced = "".join(f" {one} " if _is_ideograph(one) else one for one in visible)
    parts = unicodedata.normalize("NFD", spaced)
    # One by one, since a Greek sigma's lower case depends on what is around it.
    return "".join(one.lower() for one in parts if unicodedata.category(one) != "Mn")


def _words(text: str) -> Iterator[str]:
    """Yield the words of a clean text; each punctuation mark is a word of its own."""
    for run in text.split():
        start = 0
        for place, one in enumerate(run):
            if _is_punctuation(one):
                if place > start:
                    yield run[start:place]
                yield one
                start = place + 1
        if start < len(run):
            yield run[start:]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def _is_ideograph(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _IDEOGRAPHS)
