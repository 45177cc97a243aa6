"""Every compression technique, in one table, and the one way to run a recipe of them.

To add one: write `variants/techniques/<name>.py` and list it in `TECHNIQUES`; the tests in
`tests/variants/test_techniques.py` will hold it to the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Protocol

from pydantic import ValidationError
from rich.progress import Progress

from variants.dataset import Material
from variants.recipe import Recipe, Step
from variants.techniques.activation import ActivationPruning
from variants.techniques.int8 import Int8
from variants.techniques.recovery import Recover
from variants.techniques.sparse24 import Sparse24
from variants.workpiece import Stage, Workpiece


class Technique(Protocol):
    """Makes a model cheaper, or better again. Parameters are fields; `apply` has no options."""

    kind: ClassVar[str]
    accepts: ClassVar[Stage]
    """The last stage of a workpiece that it can still work on."""
    yields: ClassVar[Stage]
    """The stage it takes a workpiece to, if that was not further along."""

    def apply(self, workpiece: Workpiece, material: Material, progress: Progress) -> Workpiece:
        """Return another workpiece; the given one, network and all, is left as it was.

        Raises `ValueError` if the network is of a structure that it does not understand.
        """
        ...


TECHNIQUES: Final[Mapping[str, type[ActivationPruning | Sparse24 | Recover | Int8]]] = {
    cls.kind: cls for cls in (ActivationPruning, Sparse24, Recover, Int8)
}

_WHY_NOT: Final = {
    Stage.MASKED: "some weights must stay zero by then, and it would undo their pattern",
    Stage.GRAPH: "the model is a quantised ONNX graph by then, which it cannot work on",
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
    stage, since = Stage.FREE, ""
    for number, technique in enumerate(techniques, start=1):
        if stage > technique.accepts:
            raise ValueError(
                f"step {number}, {technique.kind!r}, cannot follow {since!r}: {_WHY_NOT[stage]}"
            )
        if technique.yields > stage:
            stage, since = technique.yields, technique.kind
    return techniques
