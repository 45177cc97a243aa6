from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.variants.runtime.sparse.layers import sparse_linear, weights_of
from variants.catalog.kernels import DENSE, PACKED_DENSE, LayerKernels
from variants.runtime.kernels import library
from variants.runtime.sparse import dispatch
from variants.runtime.sparse.dispatch import BATCH_SIZES, DispatchedLayer, measure_kernels

LAYER = DispatchedLayer(weights_of(sparse_linear("linear-2:4"), "linear-2:4"))
INT8 = DispatchedLayer(weights_of(sparse_linear("linear-2:4-int8"), "linear-2:4-int8"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "is_compiled", lambda: True)
    monkeypatch.setattr(library, "missing_reason", lambda: "")


def _choose(times: Mapping[int, Mapping[str, float]]) -> LayerKernels:
    return dispatch._choose(LAYER, times)


def _times(rows: float, panel: float, packed: float, dense: float) -> dict[str, float]:
    return {"rows": rows, "panel": panel, PACKED_DENSE: packed, DENSE: dense}


@pytest.mark.usefixtures("compiled")
def test_the_fastest_sparse_kernel_is_chosen_at_each_number_of_rows() -> None:
    choice = _choose({1: _times(1, 3, 9, 2), 8: _times(4, 3, 9, 6)})
    assert [(each.rows, each.kernel, each.speedup) for each in choice.choices] == [
        (1, "rows", 2.0),
        (8, "panel", 2.0),
    ]
    assert choice.reason == ""


@pytest.mark.usefixtures("compiled")
def test_a_dense_kernel_is_used_only_if_it_is_5_percent_faster_somewhere() -> None:
    same = _choose({1: _times(1, 3, 9, 0.96), 8: _times(4, 5, 9, 3.9)})
    assert [each.kernel for each in same.choices] == ["rows", "rows"]
    faster = _choose({1: _times(1, 3, 9, 0.99), 8: _times(4, 5, 9, 3.7)})
    assert [each.kernel for each in faster.choices] == [DENSE, DENSE]
    assert "not faster: at best 0.99 times as fast as dense" in faster.reason


@pytest.mark.usefixtures("compiled")
def test_at_most_one_dense_copy_is_kept() -> None:
    choice = _choose({1: _times(4, 4, 1, 3), 8: _times(4, 5, 3.9, 3.5)})
    assert [each.kernel for each in choice.choices] == [PACKED_DENSE, PACKED_DENSE]


@pytest.mark.usefixtures("missing")
def test_without_compiled_kernels_layers_are_dense_and_the_reason_is_stated() -> None:
    table = measure_kernels({"0": LAYER, "1": INT8}, seconds=0)
    assert (table.instruction_set, table.missing) == ("", "there is no compiler")
    dense, int8 = table.layers["0"], table.layers["1"]
    assert {each.kernel for each in dense.choices} == {DENSE}
    assert dense.reason == int8.reason == "there is no compiler"
    # In INT8 the answers would change.
    assert {each.kernel for each in int8.choices} == {"rows"}


def test_layers_are_timed_at_multiples_of_their_rows_per_sample() -> None:
    layers = {"0": LAYER, "1": DispatchedLayer(LAYER.weights, rows_per_sample=3)}
    table = measure_kernels(layers, seconds=10)
    assert [each.rows for each in table.layers["0"].choices] == [*BATCH_SIZES]
    assert [each.rows for each in table.layers["1"].choices] == [3 * n for n in BATCH_SIZES]
    assert all(each.seconds > 0 for each in table.layers["0"].choices)
    assert (table.layers["0"].shape, table.layers["0"].zeros) == ((33, 40), 0.5)


def test_layers_that_are_alike_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []
    measure = dispatch._timed_kernels

    def count(weights: object) -> object:
        timed.append(weights)
        return measure(weights)  # type: ignore[arg-type]

    monkeypatch.setattr(dispatch, "_timed_kernels", count)
    same = DispatchedLayer(LAYER.weights)
    table = measure_kernels({"0": LAYER, "1": same, "2": INT8}, seconds=0)
    assert [*table.layers] == ["0", "1", "2"]
    assert len(timed) == 2


def test_batch_sizes_1_and_32_are_timed_even_if_the_time_is_up() -> None:
    table = measure_kernels({"0": LAYER}, seconds=0)
    assert [each.rows for each in table.layers["0"].choices] == [1, 32]


def test_layers_share_the_products_to_time() -> None:
    other = DispatchedLayer(weights_of(sparse_linear("linear-2:4", 80), "linear-2:4"))
    alone = measure_kernels({"0": LAYER}, seconds=10, macs=33 * 40 * 8)
    both = measure_kernels({"0": LAYER, "1": other}, seconds=10, macs=33 * 40 * 8)
    assert [each.rows for each in alone.layers["0"].choices] == [1, 2, 4, 8]
    assert [each.rows for each in both.layers["0"].choices] == [1, 2, 4]
    assert [each.rows for each in both.layers["1"].choices] == [1, 2]


def test_a_sample_of_many_rows_is_timed_with_fewer() -> None:
    layer = DispatchedLayer(LAYER.weights, rows_per_sample=10**12)
    table = measure_kernels({"0": layer}, macs=33 * 40 * 5)
    assert [each.rows for each in table.layers["0"].choices] == [5]
    assert table.layers["0"].rows_per_sample == 10**12


def test_large_products_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_MACS", 33 * 40 * 4)
    table = measure_kernels({"0": LAYER}, seconds=10)
    assert [each.rows for each in table.layers["0"].choices] == [1, 2, 4]
