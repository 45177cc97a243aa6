"""The table of compression techniques, and the validation of recipes.

To add a technique, write `variants/compression/techniques/<name>.py`, list the class in
`TECHNIQUES`, and run `python -m variants.compression.techniques`.
`tests/variants/compression/test_techniques.py` then checks it against the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import ValidationError

from variants.catalog.recipe import Recipe, Step
from variants.catalog.techniques import CONTENT, StageName, TechniqueInfo, order_error
from variants.catalog.words import first_problem
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

_STAGE_NAMES: Final[Mapping[Stage, StageName]] = {
    Stage.FREE: "free",
    Stage.MASKED: "masked",
    Stage.GRAPH: "graph",
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
        raise ValueError(
            f"invalid parameters of {step.technique!r}: {first_problem(error, 'together')}; "
            f"known parameters: {', '.join(cls.model_fields)}"
        ) from None


def resolve_all(recipe: Recipe) -> tuple[Technique, ...]:
    """Return the techniques of a recipe in order.

    Raises `ValueError` as `resolve` does, and if a step cannot follow the steps before it.
    """
    techniques = tuple(resolve(step) for step in recipe)
    if error := order_error((technique.kind for technique in techniques), describe_techniques()):
        raise ValueError(error)
    return techniques


@cache
def describe_techniques() -> dict[str, TechniqueInfo]:
    """Return what is known of all techniques without importing them, by name."""
    return {
        kind: TechniqueInfo(
            parameters=_without_texts(technique.model_json_schema()),
            accepts=_STAGE_NAMES[technique.accepts],
            yields=_STAGE_NAMES[technique.yields],
            rebuilds=issubclass(technique, Converter),
        )
        for kind, technique in TECHNIQUES.items()
    }


def render_techniques() -> bytes:
    """Return the content of `variants/catalog/techniques.json`."""
    return CONTENT.dump_json(describe_techniques(), indent=1) + b"\n"


def _without_texts(schema: Any, *, is_names: bool = False) -> Any:
    """Return a JSON schema without titles and descriptions; `is_names` if its keys are names."""
    if isinstance(schema, list):
        return [_without_texts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_texts(value, is_names=key in ("properties", "$defs"))
        for key, value in schema.items()
        if is_names or key not in ("title", "description")
    }
