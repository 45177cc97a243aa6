"""Report tables on answer quality: accuracy, changed answers, classes, confidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from variants.catalog.comparison import Cards, accuracy_verdict, class_verdict
from variants.catalog.recipe import DENSE
from variants.report.text import NO_VALUE, REFERENCE, Section, interval, probability

_CLASSES: Final = 3
"""Number of classes shown per variant, those with the largest loss. The JSON has all classes."""


def answer_sections(cards: Cards) -> Iterator[Section]:
    """Yield the tables on answer quality in reading order."""
    yield _accuracy(cards)
    yield _changed_answers(cards)
    compared = {name: card for name, card in cards.items() if name != DENSE}
    if compared:
        yield _classes(compared)
    yield _confidence_calibration(cards)
    if any(card.answers.most_hit for card in cards.values()):
        yield _confident_errors(cards)


def _accuracy(cards: Cards) -> Section:
    return Section(
        "Accuracy",
        ("variant", "accuracy, %", "vs dense, points", "agreement, %", "verdict"),
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
        note="[ ] are 95 % intervals. The difference is paired by sample. "
        "Agreement: share of samples with the same answer as dense.",
    )


def _changed_answers(cards: Cards) -> Section:
    return Section(
        "Changed answers",
        ("variant", "newly wrong", "newly right", "KL from dense, millinats", "max score diff"),
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
        note="Newly wrong: only dense is right. Newly right: only the variant is right. "
        "KL(dense || variant) of the softmax. Max score diff: largest difference of a score.",
    )


def _classes(cards: Cards) -> Section:
    rows = []
    for name, card in cards.items():
        for rank, difference in enumerate(card.answers.worst_first[:_CLASSES]):
            rows.append(
                (
                    "" if rank else name,
                    f"{difference.label}",
                    f"{difference.samples:,}",
                    f"{difference.accuracy * 100:.2f}",
                    interval(difference.difference, "{:+.2f}", scale=100),
                    probability(difference.p_value),
                    class_verdict(difference),
                )
            )
    return Section(
        "Worst classes",
        ("variant", "class", "samples", "accuracy, %", "vs dense, points", "p", "verdict"),
        tuple(rows),
        is_last_column_text=True,
        note="p: exact McNemar test, adjusted for all classes (Holm); it decides the verdict. "
        "The intervals hold jointly for all classes (Bonferroni).",
    )


def _confidence_calibration(cards: Cards) -> Section:
    return Section(
        "Confidence calibration",
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
        note="Confidence: largest softmax of the scores. Expected calibration error: 15 bins of "
        "equal width.",
    )


def _confident_errors(cards: Cards) -> Section:
    return Section(
        "Most confident new errors",
        ("variant", "indices of test samples"),
        tuple(
            (name, " ".join(map(str, card.answers.most_hit)) or NO_VALUE)
            for name, card in cards.items()
            if name != DENSE
        ),
        is_last_column_text=True,
        note="Samples that dense classifies correctly and the variant does not, by descending "
        "confidence of the variant.",
    )
