"""Recipes from the network: data that is checked and bounded before anything is built.

    Recipe ─▶ check_recipe: steps, techniques, parameters, order, training

A recipe names techniques and gives numbers, choices and patterns of layer names. There is no field
for a path or an import. The schemas of the parameters come from `variants.catalog.techniques`, so
torch is not imported. What depends on the model or its data is checked when the variant is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import orjson
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaError
from jsonschema.exceptions import best_match

from serving.control.settings import Builder
from serving.errors import InvalidRequest, RequestTooLarge, shorten
from variants.catalog.parameter_rules import parameters_error
from variants.catalog.recipe import Recipe, Step
from variants.catalog.techniques import known_techniques, order_error

_LARGEST_INTEGER: Final = 2**63 - 1


def check_recipe(recipe: Recipe, limits: Builder) -> None:
    """Check what a recipe asks for.

    Raises `RequestTooLarge` or `InvalidRequest` with what would be right.
    """
    try:
        size = len(orjson.dumps([step.model_dump() for step in recipe]))
    except (TypeError, ValueError, RecursionError):  # such as an integer of more than 64 bits
        raise InvalidRequest("the recipe holds values that JSON cannot represent") from None
    _require_size(size, limits)
    if len(recipe) > limits.max_steps:
        raise InvalidRequest(
            f"a recipe may have at most {limits.max_steps} steps (builder.max_steps), "
            f"not {len(recipe)}"
        )
    for number, step in enumerate(recipe, start=1):
        _check_step(number, step)
    if error := order_error((step.technique for step in recipe), known_techniques()):
        raise InvalidRequest(error)
    epochs = training_epochs(recipe)
    if epochs > limits.max_epochs:
        raise InvalidRequest(
            f"a recipe may train for at most {limits.max_epochs} epochs (builder.max_epochs), "
            f"not {epochs:,}"
        )


def training_epochs(recipe: Recipe) -> int:
    """Return the epochs of training in all steps of a valid recipe; a round counts as one at least.

    A lottery ticket is trained once in each round and once more in the end.
    """
    return sum(_epochs(with_defaults(step)) for step in recipe)


def _epochs(parameters: Mapping[str, Any]) -> int:
    rounds, between = parameters.get("rounds"), parameters.get("recover")
    if "epochs" in parameters:
        return int(parameters["epochs"]) * (1 if rounds is None else int(rounds) + 1)
    each = 1 if between is None else int(between["epochs"])
    return 0 if rounds is None else (int(rounds) - 1) * each


def with_defaults(step: Step) -> dict[str, Any]:
    """Return the parameters of a step with the defaults of those that it does not set."""
    schema = known_techniques()[step.technique].parameters
    filled = _defaults(schema) | step.parameters
    if isinstance(filled.get("recover"), dict):
        filled["recover"] = _defaults(schema["$defs"]["Schedule"]) | filled["recover"]
    return filled


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value["default"] for name, value in schema["properties"].items() if "default" in value
    }


def _require_size(size: int, limits: Builder) -> None:
    if size > limits.max_recipe_bytes:
        raise RequestTooLarge(
            f"a recipe may have at most {limits.max_recipe_bytes:,} bytes "
            f"(builder.max_recipe_bytes), not {size:,}"
        )


def _check_step(number: int, step: Step) -> None:
    known = known_techniques()
    where = f"step {number}"
    if step.technique not in known:
        raise InvalidRequest(
            f"{where}: unknown technique {shorten(step.technique)}; known techniques: "
            f"{', '.join(known)}"
        )
    for value in _numbers(step.parameters):
        if not math.isfinite(value) or abs(value) > _LARGEST_INTEGER:
            raise InvalidRequest(f"{where}, {step.technique}: {shorten(value)} is out of range")
    error = best_match(_validator(step.technique).iter_errors(step.parameters))
    if error is not None:
        names = ", ".join(known[step.technique].parameters["properties"])
        raise InvalidRequest(
            f"{where}, {step.technique}: {_describe(error)}; known parameters: {names}"
        )
    if text := parameters_error(step.technique, with_defaults(step)):
        raise InvalidRequest(f"{where}, {step.technique}: {text}")


@cache
def _validator(technique: str) -> Draft202012Validator:
    return Draft202012Validator(known_techniques()[technique].parameters)


def _describe(error: SchemaError) -> str:
    """Return an error of a JSON schema in words, of bounded length."""
    where = ".".join(str(part) for part in error.absolute_path)
    name = f"{shorten(where)[1:-1]}: " if where else ""
    instance: Any = error.instance
    schema: Any = error.schema
    expected: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            unknown = sorted(set(instance) - set(schema["properties"]))
            return f"{name}unknown parameter {shorten(unknown[0])}"
        case "required":
            missing = [each for each in expected if each not in instance]
            return f"{name}the parameter {missing[0]!r} is required"
        case "enum":
            options = ", ".join(map(str, expected))
            return f"{name}{shorten(instance)} is not one of {options}"
        case "type":
            return f"{name}{shorten(instance)} is not of type {expected}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum" as rule:
            words = _BOUNDS[rule]
            return f"{name}{shorten(instance)} must be {words} {expected}"
    return f"{name}{shorten(instance)} is not valid"


_BOUNDS: Final = {
    "minimum": "at least",
    "exclusiveMinimum": "greater than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def _numbers(value: object) -> Iterator[float]:
    """Yield all numbers in the parameters of a step."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
