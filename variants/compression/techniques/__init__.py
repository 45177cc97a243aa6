"""Every compression technique, in one table, and the one way to run a recipe of them.

To add one: write `variants/compression/techniques/<name>.py` and list it in `TECHNIQUES`; the tests in
`tests/variants/compression/test_techniques.py` will hold it to the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from variants.catalog.recipe import Recipe, Step
from variants.compression.techniques.activation import ActivationPruning
from variants.compression.techniques.half import Bf16, Fp16
from variants.compression.techniques.int8 import Int8
from variants.compression.techniques.lottery import LotteryTicket
from variants.compression.techniques.low_rank import LowRankFactors
from variants.compression.techniques.n_m import SparseNM
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.smoothquant import SmoothQuant
from variants.compression.techniques.structured import Structured
from variants.compression.techniques.technique import Technique
from variants.compression.techniques.unstructured import Unstructured
from variants.compression.techniques.weight_sharing import WeightSharing
from variants.model.state import Converter, Stage

TECHNIQUES: Final[Mapping[str, type[Technique]]] = {
    cls.kind: cls
    for cls in (
        ActivationPruning,
        Structured,
        Unstructured,
        SparseNM,
        Recover,
        SmoothQuant,
        Int8,
        Fp16,
        Bf16,
        LowRankFactors,
        LotteryTicket,
        WeightSharing,
    )
}

_WHY_NOT: Final = {
    Stage.MASKED: "some weights must stay zero by then, and it would undo their pattern",
    Stage.GRAPH: "the model is an ONNX graph by then, and a change of the network would not reach "
    "it; put it before",
}


def resolve(step: Step) -> Technique:
    """Build the technique a step names, its parameters checked.

    Raises `ValueError` that says which technique or parameter is wrong, and what is known.
    """
    if step.technique not in TECHNIQUES:
        raise ValueError(f"unknown technique {step.technique!r}; known: {', '.join(TECHNIQUES)}")
    cls = TECHNIQUES[step.technique]
    try:
        return cls.model_validate(step.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"bad parameters for {step.technique!r}: {where}: {first['msg']}; "
            f"known: {', '.join(cls.model_fields)}"
        ) from None


def resolve_all(recipe: Recipe) -> tuple[Technique, ...]:
    """Build the techniques of a recipe.

    Raises `ValueError` as `resolve` does, and for an order that cannot work, with the reason.
    """
    techniques = tuple(resolve(step) for step in recipe)
    stage, since = Stage.FREE, None
    for number, technique in enumerate(techniques, start=1):
        if since is not None and (reason := _why_not(technique, stage, since)):
            raise ValueError(
                f"step {number}, {technique.kind!r}, cannot follow {since.kind!r}: {reason}"
            )
        if technique.yields > stage:
            stage, since = technique.yields, technique
    return techniques


def _why_not(technique: Technique, stage: Stage, since: Technique) -> str:
    """Return why a technique cannot work at this stage, to which `since` has led, or nothing."""
    if stage > technique.accepts:
        return _WHY_NOT[stage]
    if stage is Stage.GRAPH and not isinstance(since, Converter):
        return "that makes its graph once, and not anew from a network that has learnt more"
    return ""
