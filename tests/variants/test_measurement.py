from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.small import datasets, measure_lightly
from variants.catalog import Catalog, ReportCard
from variants.evaluation import wilson
from variants.hardware import hardware, libraries
from variants.measurement import measure

NETWORK = (784 * 64 + 64) + (64 * 64 + 64) + (64 * 10 + 10)


def cards(folder: Path) -> dict[str, ReportCard]:
    return {v.name: v.report_cards[0] for v in Catalog.load(folder).variants.values()}


def answers(folder: Path, variant: str) -> NDArray[np.int64]:
    """Ask onnxruntime for the test samples, without any code of ours."""
    session = onnxruntime.InferenceSession(
        folder / variant / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"input": datasets().test.samples})
    best: NDArray[np.int64] = np.argmax(np.asarray(logits), axis=1)
    return best


def test_accuracy_and_agreement_are_those_of_the_artifacts(small_catalog: Path) -> None:
    labels = datasets().test.labels
    dense = answers(small_catalog, "dense")
    for name in ("activation-pruned", "int8"):
        card, own = cards(small_catalog)[name], answers(small_catalog, name)
        assert card.test_samples == len(labels)
        assert card.accuracy == wilson(int((own == labels).sum()), len(labels))
        assert card.agreement == wilson(int((own == dense).sum()), len(labels))
        difference = (own == labels).mean() - (dense == labels).mean()
        assert card.accuracy_difference.value == pytest.approx(difference)


def test_dense_differs_from_itself_by_nothing_that_had_to_be_estimated(small_catalog: Path) -> None:
    card = cards(small_catalog)["dense"]
    assert card.accuracy_difference.low == card.accuracy_difference.high == 0
    assert card.agreement.low == card.agreement.high == 1
    assert {one.speedup.value for one in card.latencies} == {1}


def test_sizes_are_those_of_the_network(small_catalog: Path) -> None:
    measured = cards(small_catalog)
    dense, sparse, int8 = (measured[name] for name in ("dense", "sparse-2:4", "int8"))
    assert dense.parameters >= NETWORK  # and the few numbers of its normalisation
    assert dense.parameters - NETWORK <= 2
    assert measured["activation-pruned"].parameters < dense.parameters
    assert int8.weight_bytes < dense.weight_bytes / 3
    assert sparse.parameters - sparse.nonzeros >= (784 * 64 + 64 * 64) // 2
    for name, variant in Catalog.load(small_catalog).variants.items():
        on_disk = sum((small_catalog / name / file.name).stat().st_size for file in variant.files)
        assert measured[name].artifact_bytes == on_disk
        assert measured[name].weight_bytes <= on_disk


def test_a_card_says_where_when_and_with_what_it_was_measured(small_catalog: Path) -> None:
    for card in cards(small_catalog).values():
        assert card.hardware == hardware(1)
        assert card.libraries == libraries()
        assert datetime.fromisoformat(card.measured_at).tzinfo == UTC
        assert [one.batch_size for one in card.latencies] == [1, 8, 64]
        assert card.resident_bytes > 0


def test_the_listener_hears_each_part_of_the_work_to_its_end(small_catalog: Path) -> None:
    heard: dict[str, list[float]] = {}
    catalog = Catalog.load(small_catalog)
    measure(
        small_catalog,
        catalog.model,
        {"dense": catalog.variants["dense"]},
        datasets().test.samples[:50],
        datasets().test.labels[:50],
        seconds_per_point=0,
        batch_sizes=(1, 2),
        on_progress=lambda what, share: heard.setdefault(what, []).append(share),
    )
    assert list(heard) == ["answers", "latency", "memory"]
    for shares in heard.values():
        assert shares == sorted(shares)
        assert shares[-1] == 1


def test_variants_are_not_measured_without_dense_or_samples(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    test = datasets().test
    int8 = {"int8": catalog.variants["int8"]}
    with pytest.raises(ValueError, match="`dense` must be measured"):
        measure_lightly(
            small_catalog,
            catalog.model,
            int8,
            test.samples,
            test.labels,
            threads=1,
            on_progress=lambda what, share: None,
        )
    with pytest.raises(ValueError, match="no test samples"):
        measure(small_catalog, catalog.model, catalog.variants, test.samples[:0], test.labels[:0])


def test_the_artifacts_hold_no_more_weights_than_were_counted(small_catalog: Path) -> None:
    for name in ("dense", "activation-pruned", "int8"):
        graph = onnx.load(small_catalog / name / "model.onnx").graph
        stored = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer)
        assert cards(small_catalog)[name].weight_bytes == stored
