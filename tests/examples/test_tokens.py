from __future__ import annotations

from pathlib import Path

import pytest

from examples.minilm import data
from examples.minilm.prepare import VOCABULARY
from examples.minilm.tokens import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PIECES = (
    "un",
    "##aff",
    "##able",
    "run",
    "##ning",
    "creme",
    "!",
    "-",
    "?",
    "a",
    "北",
    "don",
    "'",
    "t",
)
TOY = Tokenizer((*SPECIAL, *PIECES))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        pytest.param("unaffable", ["un", "##aff", "##able"], id="longest piece first"),
        pytest.param("Running", ["run", "##ning"], id="lower case"),
        pytest.param("Crème", ["creme"], id="no accents"),
        pytest.param("Cre\u0300me", ["creme"], id="no accents that combine"),
        pytest.param("don't!?", ["don", "'", "t", "!", "?"], id="punctuation stands alone"),
        pytest.param("a\u2014a", ["a", "[UNK]", "a"], id="Unicode's punctuation too"),
        pytest.param("a\t a\n\u00a0a", ["a", "a", "a"], id="every blank parts"),
        pytest.param("r\x00u\u200bn\ufffd", ["run"], id="control characters are dropped"),
        pytest.param("a北a", ["a", "北", "a"], id="an ideograph is a word"),
        pytest.param("unrun", ["[UNK]"], id="a word without all its pieces"),
        pytest.param("a" * 101, ["[UNK]"], id="a word too long"),
        pytest.param(" ", [], id="nothing"),
    ],
)
def test_text_is_cut_into_pieces(text: str, pieces: list[str]) -> None:
    assert TOY.pieces(text) == pieces


def test_texts_become_one_request() -> None:
    encoded = TOY.encode(["a", "running a"], longest=9)
    assert encoded["input_ids"].tolist() == [[2, 13, 3, 0, 0], [2, 7, 8, 13, 3]]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert {array.dtype.name for array in encoded.values()} == {"int64"}


def test_what_is_too_long_is_cut_and_still_ends() -> None:
    assert TOY.encode(["a a a a a"], longest=4)["input_ids"].tolist() == [[2, 13, 13, 3]]


def test_a_vocabulary_without_the_special_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks \[PAD\], \[SEP\]"):
        Tokenizer(["[UNK]", "[CLS]", "a"])


@pytest.mark.skipif(
    not data.FOLDER.exists(), reason="`python -m examples.fetch minilm` was not run (170 MB)"
)
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (
            "Crème Brûlée à la carte",
            [101, 13675, 21382, 7987, 9307, 2063, 1037, 2474, 11122, 2063, 102],
        ),
        ("北京 is 東京?", [101, 1781, 1755, 2003, 1879, 1755, 1029, 102]),
        ("don't!!", [101, 2123, 1005, 1056, 999, 999, 102]),
        ("x" * 101, [101, 100, 102]),
    ],
)
def test_the_published_tokenizer_says_the_same(text: str, ids: list[int]) -> None:
    """Numbers of tokenizers 0.23 with the tokenizer.json of the model."""
    tokenizer = Tokenizer.load(Path(data.FOLDER, VOCABULARY))
    assert tokenizer.encode([text], 24)["input_ids"].tolist() == [ids]
