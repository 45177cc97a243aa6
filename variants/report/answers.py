"""What the report says of a variant's answers: how good, how different from dense's, for whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from variants.catalog.comparison import Cards, accuracy_verdict, class_verdict
from variants.catalog.recipe import DENSE
from variants.report.text import NO_VALUE, REFERENCE, Section, interval, probability

_CLASSES: Final = 3
"""Classes shown of each variant, those that lost most; the JSON has all."""


def answer_sections(cards: Cards) -> Iterator[Section]:
    """Yield the tables about answers, in reading order."""
    yield _accuracy(cards)
    yield _flips(cards)
    compared = {name: card for name, card in cards.items() if name != DENSE}
    if compared:
        yield _classes(compared)
    yield _calibration(cards)
    if any(card.answers.most_hit for card in cards.values()):
        yield _most_hit(cards)


def _accuracy(cards: Cards) -> Section:
    return Section(
        "Answers",
        ("variant", "accuracy, %", "vs dense, points", "agreement, %", "accuracy is"),
        tuple(
            (
                name,
                interval(card.accuracy, "{:.2f}", scale=100),
                interval(card.accuracy_difference, "{:+.2f}", scale=100),
                interval(card.agreement, "{:.2f}", scale=100),
                REFERENCE if name == DENSE else accuracy_verdict(card.accuracy_difference),
            )
            for name, card in cards.items()
        ),
        is_last_column_text=True,
        note="[ ] are 95 % intervals; the difference is paired by sample. "
        "Agreement: same answer as dense.",
    )


def _flips(cards: Cards) -> Section:
    return Section(
        "Changed answers",
        ("variant", "right to wrong", "wrong to right", "KL from dense, millinats", "largest"),
        tuple(
            (
                name,
                f"{card.answers.lost:,}",
                f"{card.answers.gained:,}",
                interval(card.answers.divergence, "{:.2f}", scale=1e3),
                f"{card.answers.largest_score_difference:.3g}",
            )
            for name, card in cards.items()
        ),
        is_last_column_text=False,
        note="Samples that only dense, or only the variant, has right; KL(dense || variant) of the "
        "softmax; largest: difference of a score.",
    )


def _classes(cards: Cards) -> Section:
    rows = []
    for name, card in cards.items():
        for rank, one in enumerate(card.answers.worst_first[:_CLASSES]):
            rows.append(
                (
                    "" if rank else name,
                    f"{one.label}",
                    f"{one.samples:,}",
                    f"{one.accuracy * 100:.2f}",
                    interval(one.difference, "{:+.2f}", scale=100),
                    probability(one.p_value),
                    class_verdict(one),
                )
            )
    return Section(
        "Worst classes",
        ("variant", "class", "samples", "accuracy, %", "vs dense, points", "p", "class is"),
        tuple(rows),
        is_last_column_text=True,
        note="p: exact McNemar test, adjusted by Holm for all classes, and the word goes by it; "
        "the intervals hold for all classes together (Bonferroni).",
    )


def _calibration(cards: Cards) -> Section:
    return Section(
        "Calibration",
        ("variant", "mean confidence, %", "accuracy, %", "calibration error, %", "Brier score"),
        tuple(
            (
                name,
                f"{card.answers.calibration.confidence * 100:.2f}",
                f"{card.accuracy.value * 100:.2f}",
                f"{card.answers.calibration.error * 100:.2f}",
                f"{card.answers.calibration.brier:.4f}",
            )
            for name, card in cards.items()
        ),
        is_last_column_text=False,
        note="Of the softmax of the scores; expected calibration error in 15 bins of equal width.",
    )


def _most_hit(cards: Cards) -> Section:
    return Section(
        "Most hit",
        ("variant", "numbers of test samples"),
        tuple(
            (name, " ".join(map(str, card.answers.most_hit)) or NO_VALUE)
            for name, card in cards.items()
            if name != DENSE
        ),
        is_last_column_text=True,
        note="Dense has these right and the variant wrong, the surest of them first.",
    )
