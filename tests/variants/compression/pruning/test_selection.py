from __future__ import annotations

import numpy as np
import pytest

from tests.variants import tiny
from variants.compression.pruning.graph import find_unit_groups
from variants.compression.pruning.group import ParameterCounter
from variants.compression.pruning.selection import Limits, Scope, choose

SCORES = {"0": np.arange(16.0), "2": np.arange(16.0)[::-1] + 100.0}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.62, 0.9])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_fewest_units_that_reach_the_share_are_removed(share: float, scope: Scope) -> None:
    network = tiny.network()
    groups = find_unit_groups(network, tiny.split(9).samples).groups
    counter = ParameterCounter(network, groups)
    kept = choose(groups, SCORES, counter, share=share, scope=scope, limits=Limits())
    removed = 1 - counter.count_kept(kept) / counter.total
    one_unit = (tiny.INPUTS + 1 + tiny.HIDDEN) / counter.total
    assert share <= removed <= share + one_unit
    sizes = {name: int(kept_units.sum()) for name, kept_units in kept.items()}
    assert (~kept["0"]).nonzero()[0].tolist() == list(range(16 - sizes["0"]))
    assert kept["2"].nonzero()[0].tolist() == list(range(sizes["2"]))
    if scope == "global":
        assert sizes["2"] == 16 or sizes["0"] == 1
    else:
        assert abs(sizes["0"] - sizes["2"]) <= 1


def test_the_number_of_kept_units_is_rounded_up_and_bounded_below() -> None:
    network = tiny.network()
    groups = find_unit_groups(network, tiny.split(9).samples).groups
    counter = ParameterCounter(network, groups)
    limits = Limits(round_to=4, min_units={"0": 7})
    kept = choose(groups, SCORES, counter, share=0.7, scope="global", limits=limits)
    assert {name: int(kept_units.sum()) for name, kept_units in kept.items()} == {"0": 8, "2": 4}
    with pytest.raises(ValueError, match=r"cannot remove 90.0% of the 467 parameters, only 73.7%"):
        choose(groups, SCORES, counter, share=0.9, scope="global", limits=limits)
