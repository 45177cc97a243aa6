from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from tests.small import datasets, measure_lightly
from tests.variants import two_inputs
from variants.build.build import create_artifact
from variants.catalog import artifact
from variants.catalog.catalog import Catalog, Macs, Model, ReportCard, Variant
from variants.catalog.hardware import hardware, libraries
from variants.measurement.evaluation import wilson_interval
from variants.measurement.progress import ignore_phases
from variants.measurement.report_card import measure
from variants.runtime.linear24 import mask24
from variants.runtime.plan import WEIGHTS

NETWORK = (784 * 64 + 64) + (64 * 64 + 64) + (64 * 10 + 10)


def cards(folder: Path) -> dict[str, ReportCard]:
    return {v.name: v.report_cards[0] for v in Catalog.load(folder).variants.values()}


def scores(folder: Path, variant: str) -> NDArray[np.float32]:
    """Return the scores of the test samples by onnxruntime alone."""
    session = onnxruntime.InferenceSession(
        folder / variant / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, dict(datasets().test.samples))
    return np.asarray(logits)


def test_accuracy_and_agreement_match_the_artifacts(small_catalog: Path) -> None:
    labels = datasets().test.labels
    dense = scores(small_catalog, "dense").argmax(axis=1)
    for name in ("activation-pruned", "int8"):
        card, own = cards(small_catalog)[name], scores(small_catalog, name).argmax(axis=1)
        assert card.test_samples == len(labels)
        assert card.accuracy == wilson_interval(int((own == labels).sum()), len(labels))
        assert card.agreement == wilson_interval(int((own == dense).sum()), len(labels))
        difference = (own == labels).mean() - (dense == labels).mean()
        assert card.accuracy_difference.value == pytest.approx(difference)
        assert card.answers.lost == ((own != labels) & (dense == labels)).sum()
        assert card.answers.gained == ((own == labels) & (dense != labels)).sum()
        assert sum(one.samples for one in card.answers.classes) == len(labels)
        lost = set(np.flatnonzero((own != labels) & (dense == labels)).tolist())
        assert set(card.answers.most_hit) <= lost
        assert len(card.answers.most_hit) == min(10, len(lost))


def test_divergence_and_calibration_match_the_artifacts(small_catalog: Path) -> None:
    labels = torch.from_numpy(datasets().test.labels)
    dense, own = (torch.from_numpy(scores(small_catalog, n)).double() for n in ("dense", "int8"))
    answers = cards(small_catalog)["int8"].answers
    of_dense, of_own = dense.log_softmax(1), own.log_softmax(1)
    divergence = F.kl_div(of_own, of_dense, log_target=True, reduction="batchmean")
    assert answers.divergence.value == pytest.approx(float(divergence))
    assert answers.divergence.low < answers.divergence.value < answers.divergence.high
    assert answers.largest_score_difference == pytest.approx(float((own - dense).abs().max()))
    truth = F.one_hot(labels, 10)
    brier = float(((of_own.exp() - truth) ** 2).sum(1).mean())
    assert answers.calibration.brier == pytest.approx(brier)
    assert answers.calibration.confidence == pytest.approx(float(of_own.exp().amax(1).mean()))
    assert 0 < answers.calibration.error < 0.2


def test_the_differences_of_dense_from_itself_are_exactly_zero(small_catalog: Path) -> None:
    card = cards(small_catalog)["dense"]
    assert card.accuracy_difference.low == card.accuracy_difference.high == 0
    assert card.agreement.low == card.agreement.high == 1
    assert card.answers.divergence.high == 0
    for one in card.latencies:
        assert one.dense_p50_s["onnx"] == one.p50_s
        if one.reference == "onnx":
            assert one.speedup.low == one.speedup.high == 1


def test_speedups_refer_to_the_faster_runtime_of_dense(small_catalog: Path) -> None:
    for latencies in zip(*(card.latencies for card in cards(small_catalog).values()), strict=True):
        (dense,) = {tuple(one.dense_p50_s.items()) for one in latencies}
        assert [runtime for runtime, _ in dense] == ["onnx", "torch"]
        fastest = min(p50_s for _, p50_s in dense)
        assert [one.speedup.value for one in latencies] == pytest.approx(
            [fastest / one.p50_s for one in latencies]
        )


def test_sizes_match_the_network(small_catalog: Path) -> None:
    measured = cards(small_catalog)
    dense, sparse, int8 = (measured[name] for name in ("dense", "sparse-2:4", "int8"))
    assert dense.parameters >= NETWORK  # plus the constants of its normalization
    assert dense.parameters - NETWORK <= 2
    assert measured["activation-pruned"].parameters < dense.parameters
    assert int8.weight_bytes < dense.weight_bytes / 3
    assert sparse.parameters - sparse.nonzeros >= (784 * 64 + 64 * 64) // 2
    for name, variant in Catalog.load(small_catalog).variants.items():
        on_disk = sum((small_catalog / name / file.name).stat().st_size for file in variant.files)
        assert measured[name].artifact_bytes == on_disk
        assert measured[name].weight_bytes <= measured[name].served_bytes <= on_disk
        assert measured[name].compressed_bytes < measured[name].served_bytes


def test_effective_macs_exclude_zero_weights(small_catalog: Path) -> None:
    measured = cards(small_catalog)
    dense, pruned, sparse, int8 = (
        measured[name].macs for name in ("dense", "activation-pruned", "sparse-2:4", "int8")
    )
    weights = 784 * 64 + 64 * 64 + 64 * 10
    assert dense == Macs(dense=weights, effective=weights)
    assert sparse == Macs(dense=weights, effective=784 * 32 + 64 * 32 + 64 * 10)
    assert pruned is not None
    assert int8 is not None
    assert pruned.dense < 0.8 * weights
    assert int8.dense == weights
    assert int8.effective == weights - (measured["int8"].parameters - measured["int8"].nonzeros)


def test_a_card_records_hardware_libraries_time_and_provenance(small_catalog: Path) -> None:
    for card in cards(small_catalog).values():
        assert card.hardware == hardware(1)
        assert card.libraries == libraries()
        assert card.provider in ("CPUExecutionProvider", "torch CPU")
        assert (card.gpu_bytes, card.elsewhere) == (None, {})
        assert datetime.fromisoformat(card.measured_at).tzinfo == UTC
        assert [one.batch_size for one in card.latencies] == [1, 8, 64]
        assert card.resident_bytes > 0
        assert card.peak_bytes is None or card.peak_bytes >= card.resident_bytes
        assert 0 < card.load.least_s <= card.load.median_s <= card.load.most_s
        assert card.provenance == cards(small_catalog)["dense"].provenance
        assert card.provenance.seed == 0


def test_progress_is_reported_for_each_phase(small_catalog: Path) -> None:
    fractions: dict[str, list[float]] = {}
    catalog = Catalog.load(small_catalog)
    measure(
        small_catalog,
        catalog.model,
        {"dense": catalog.variants["dense"]},
        datasets().test.part(0, 50),
        seconds_per_point=0,
        batch_sizes=(1, 2),
        processes=1,
        on_progress=lambda phase, fraction: fractions.setdefault(phase, []).append(fraction),
    )
    assert list(fractions) == ["answers", "latency", "memory"]
    for of_phase in fractions.values():
        assert of_phase == sorted(of_phase)
        assert of_phase[-1] == 1


def test_dense_and_samples_are_required(small_catalog: Path) -> None:
    catalog = Catalog.load(small_catalog)
    test = datasets().test
    int8 = {"int8": catalog.variants["int8"]}
    with pytest.raises(ValueError, match="`dense` must be measured"):
        measure_lightly(
            small_catalog,
            catalog.model,
            int8,
            test,
            threads=1,
            on_progress=ignore_phases,
        )
    with pytest.raises(ValueError, match="no test samples"):
        measure(small_catalog, catalog.model, catalog.variants, test.part(0, 0))


def test_weight_bytes_are_those_of_all_initializers(small_catalog: Path) -> None:
    for name in ("dense", "activation-pruned", "int8"):
        graph = onnx.load(small_catalog / name / "model.onnx").graph
        stored = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer)
        assert cards(small_catalog)[name].weight_bytes == stored


def test_a_model_with_two_inputs_of_variable_length_is_measured(tmp_path: Path) -> None:
    piece = two_inputs.state()
    sparse = copy.deepcopy(piece.network)
    weight = sparse.get_submodule("hidden").weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.mul_(mask24(weight))
    data = two_inputs.datasets().training_data
    variants = {}
    for name, state in (
        ("dense", piece),
        ("sparse", replace(piece, network=sparse, packed=frozenset({"hidden"}))),
    ):
        runner, files = create_artifact(state, data)
        files[WEIGHTS] = files.get(WEIGHTS) or save(piece.network.state_dict())
        variants[name] = artifact.save(
            tmp_path, Variant(name=name, recipe=(), runner=runner, files=()), files
        )
    model = Model(
        name="texts",
        factory="tests.variants.two_inputs:network",
        weights_sha256="",
        datasets_sha256="",
        inputs=piece.interface.inputs,
        outputs=piece.interface.outputs,
    )
    measured = measure(
        tmp_path,
        model,
        variants,
        two_inputs.split(60, 3, tokens=9),
        seconds_per_point=0,
        batch_sizes=(1, 4),
        processes=1,
    )
    assert {name: variant.runner for name, variant in variants.items()} == {
        "dense": "onnx",
        "sparse": "torch",
    }
    hidden, head = 8 * 16, 16 * 3
    assert measured["dense"].macs == Macs(dense=hidden + head, effective=hidden + head)
    assert measured["sparse"].macs == Macs(dense=hidden + head, effective=hidden // 2 + head)
    assert list(measured["sparse"].latencies[0].dense_p50_s) == ["onnx", "torch"]
    assert measured["sparse"].answers.divergence.value > 0
    assert measured["dense"].kernels is None
    kernels = measured["sparse"].kernels
    assert kernels is not None
    assert [*kernels.layers] == ["hidden", "head"]
