"""The table of compression techniques, and the validation of recipes.

To add a technique, write `variants/compression/techniques/<name>.py` and list the class in
`TECHNIQUES`. `tests/variants/compression/test_techniques.py` then checks it against the contract.
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

_STAGE_ERRORS: Final = {
    Stage.MASKED: "masked weights must stay zero from there on, and this step would change their "
    "pattern",
    Stage.GRAPH: "the model is an ONNX graph from there on, and changes to the network would not "
    "reach it; place this step before the one that makes the graph",
}


def resolve(step: Step) -> Technique:
    """Return the technique that a step names, with its parameters validated.

    Raises `ValueError` if the technique or a parameter is unknown or invalid; the message names it
    and lists the known ones.
    """
    if step.technique not in TECHNIQUES:
        raise ValueError(
            f"unknown technique {step.technique!r}; known techniques: {', '.join(TECHNIQUES)}"
        )
    cls = TECHNIQUES[step.technique]
    try:
        return cls.model_validate(step.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"invalid parameters of {step.technique!r}: {where}: {first['msg']}; "
            f"known parameters: {', '.join(cls.model_fields)}"
        ) from None


def resolve_all(recipe: Recipe) -> tuple[Technique, ...]:
    """Return the techniques of a recipe in order.

    Raises `ValueError` as `resolve` does, and if a step cannot follow the steps before it.
    """
    techniques = tuple(resolve(step) for step in recipe)
    stage, last = Stage.FREE, None
    for number, technique in enumerate(techniques, start=1):
        if last is not None and (reason := _order_error(technique, stage, last)):
            raise ValueError(
                f"step {number}, {technique.kind!r}, cannot follow {last.kind!r}: {reason}"
            )
        if technique.yields > stage:
            stage, last = technique.yields, technique
    return techniques


def _order_error(technique: Technique, stage: Stage, last: Technique) -> str:
    """Return why a technique cannot follow `last`, which set the stage; "" if it can."""
    if stage > technique.accepts:
        return _STAGE_ERRORS[stage]
    if stage is Stage.GRAPH and not isinstance(last, Converter):
        return (
            f"the graph of {last.kind!r} cannot be rebuilt from a network that was trained further"
        )
    return ""
