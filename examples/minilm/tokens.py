"""Tokenizer of BERT: lower case, no accents, WordPiece.

Devlin et al. 2019 (arXiv:1810.04805), with the greedy longest-match search of Wu et al. 2016
(arXiv:1609.08144). Pure Python, so clients of the service can use it.
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
"""Prefix of pieces that do not start a word."""

_CONTROL: Final = ("Cc", "Cf", "Co", "Cs")
_MAX_WORD_LENGTH: Final = 100
"""Maximum length of a word, in characters; longer words become `UNKNOWN`."""

_IDEOGRAPHS: Final = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""Unicode blocks of ideographs. Each ideograph is a separate word."""


class Tokenizer:
    """Converts text to ids of a vocabulary, which must contain the special pieces."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}
        if missing := [piece for piece in (PAD, UNKNOWN, START, END) if piece not in self._ids]:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a vocabulary file with one piece per line, UTF-8."""
        return cls(path.read_text(encoding="utf-8").splitlines())

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of the text, without `START` and `END`."""
        return [piece for word in _words(_clean(text)) for piece in self._cut(word)]

    def encode(self, texts: Sequence[str], longest: int) -> dict[str, NDArray[np.int64]]:
        """Return `input_ids` and `attention_mask`, INT64 `[n, tokens]`, for a request.

        Texts are padded to the longest of them and truncated to `longest` tokens.
        """
        rows = [
            [self._ids[piece] for piece in (START, *self.pieces(text)[: longest - 2], END)]
            for text in texts
        ]
        shape = len(rows), max(map(len, rows))
        ids, mask = np.full(shape, self._ids[PAD]), np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _cut(self, word: str) -> list[str]:
        """Split a word into pieces, each the longest that matches at its position."""
        if len(word) > _MAX_WORD_LENGTH:
            return [UNKNOWN]
        pieces: list[str] = []
        start = 0
        while start < len(word):
            prefix = CONTINUED if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), None)
            if end is None:
                return [UNKNOWN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


def _clean(text: str) -> str:
    """Convert to lower case, drop accents and control characters, and normalize white space."""
    visible = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace()
        or not (unicodedata.category(character) in _CONTROL or character == "\ufffd")
    )
    spaced = "".join(
        f" {character} " if _is_ideograph(character) else character for character in visible
    )
    parts = unicodedata.normalize("NFD", spaced)
    # Per character, since the lower case of a Greek sigma depends on its neighbours.
    return "".join(
        character.lower() for character in parts if unicodedata.category(character) != "Mn"
    )


def _words(text: str) -> Iterator[str]:
    """Yield the words of a clean text. Each punctuation mark is a separate word."""
    for run in text.split():
        start = 0
        for position, character in enumerate(run):
            if _is_punctuation(character):
                if position > start:
                    yield run[start:position]
                yield character
                start = position + 1
        if start < len(run):
            yield run[start:]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def _is_ideograph(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _IDEOGRAPHS)
