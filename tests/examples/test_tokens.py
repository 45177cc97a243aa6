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
        pytest.param("Cre\u0300me", ["creme"], id="no combining accents"),
        pytest.param("don't!?", ["don", "'", "t", "!", "?"], id="punctuation is separate"),
        pytest.param("a\u2014a", ["a", "[UNK]", "a"], id="Unicode punctuation"),
        pytest.param("a\t a\n\u00a0a", ["a", "a", "a"], id="white space separates words"),
        pytest.param("r\x00u\u200bn\ufffd", ["run"], id="no control characters"),
        pytest.param("a北a", ["a", "北", "a"], id="an ideograph is a word"),
        pytest.param("unrun", ["[UNK]"], id="a word that cannot be split"),
        pytest.param("a" * 101, ["[UNK]"], id="a word that is too long"),
        pytest.param(" ", [], id="no words"),
    ],
)
def test_text_is_split_into_pieces(text: str, pieces: list[str]) -> None:
    assert TOY.pieces(text) == pieces


def test_texts_are_encoded_with_padding_and_mask() -> None:
    encoded = TOY.encode(["a", "running a"], longest=9)
    assert encoded["input_ids"].tolist() == [[2, 13, 3, 0, 0], [2, 7, 8, 13, 3]]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert {array.dtype.name for array in encoded.values()} == {"int64"}


def test_a_long_text_is_truncated_before_the_end_token() -> None:
    assert TOY.encode(["a a a a a"], longest=4)["input_ids"].tolist() == [[2, 13, 13, 3]]


def test_a_vocabulary_without_the_special_pieces_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"lacks \[PAD\], \[SEP\]"):
        Tokenizer(["[UNK]", "[CLS]", "a"])


@pytest.mark.skipif(
    not data.FOLDER.exists(), reason="needs `python -m examples.fetch minilm` (170 MB)"
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
def test_the_published_tokenizer_computes_the_same_ids(text: str, ids: list[int]) -> None:
    """Reference: tokenizers 0.23 with the tokenizer.json of the model."""
    tokenizer = Tokenizer.load(Path(data.FOLDER, VOCABULARY))
    assert tokenizer.encode([text], 24)["input_ids"].tolist() == [ids]
