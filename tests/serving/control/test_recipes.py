from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from serving.control.api.bodies import Replacement, parse_body
from serving.control.recipes import check_recipe, training_epochs
from serving.control.settings import Builder
from serving.errors import InvalidRequest, RequestTooLarge
from variants.catalog.recipe import Recipe, Step

LIMITS = Builder()
INT8 = {"technique": "int8", "parameters": {"samples": 64}}


def _step(technique: str, **parameters: Any) -> dict[str, Any]:
    return {"technique": technique, "parameters": parameters}


def _recipe(*steps: dict[str, Any]) -> Recipe:
    return tuple(Step.model_validate(step) for step in steps)


HOSTILE: list[Any] = [
    pytest.param(b"", "not valid JSON", id="nothing"),
    pytest.param(b'[{"technique": "int8"', "not valid JSON", id="cut off"),
    pytest.param(b"\x80\x04\x95\x1f", "not valid JSON", id="a pickle"),
    pytest.param(b"[" * 30_000, "not valid JSON", id="nested lists"),
    pytest.param(b'{"technique": "int8"}', "must be a list", id="not a list"),
    pytest.param(b'["int8"]', r"recipe\.0: must be a mapping", id="not a step"),
    pytest.param(b'[{"technique": 7}]', r"recipe\.0\.technique: ", id="a number as technique"),
    pytest.param(
        [{"technique": "int8", "module": "os"}],
        r"recipe\.0\.module: no such field",
        id="an unknown field",
    ),
    pytest.param([_step("os.system")], "unknown technique 'os.system'; known", id="an import path"),
    pytest.param([_step("../../etc/passwd")], "unknown technique", id="a file path"),
    pytest.param([_step("x" * 10_000)], "unknown technique 'xxx", id="a long name"),
    pytest.param(
        [_step("int8", samples="os:system")],
        "step 1, int8: samples: 'os:system' is not of type integer", id="an import as a number",
    ),
    pytest.param(
        [_step("int8", weights="/etc/passwd")],
        "step 1, int8: unknown parameter 'weights'; known parameters: mode, samples",
        id="an unknown parameter",
    ),
    pytest.param([_step("int8", mode="eval")], "'eval' is not one of static, dynamic", id="choice"),
    pytest.param([_step("int8", samples=0)], "samples: 0 must be at least 1", id="too small"),
    pytest.param([_step("int8", max_drop=2)], "max_drop: 2 must be at most 1", id="too large"),
    pytest.param([_step("int8", samples=2.5)], "2.5 is not of type integer", id="a fraction"),
    pytest.param([_step("int8", per_channel="yes")], "is not of type boolean", id="a text"),
    pytest.param([_step("int8", seed=2**63)], "is out of range", id="a large seed"),
    pytest.param(b'[{"technique":"int8","parameters":{"max_drop":1e999}}]', ".", id="infinity"),
    pytest.param([_step("structured")], "the parameter 'share' is required", id="incomplete"),
    pytest.param([_step("structured", share=1.0)], "share: 1.0 must be less than 1", id="all"),
    pytest.param(
        [_step("structured", share=0.5, rounds=3, recover={"epochs": 1, "module": "os"})],
        "step 1, structured: recover: unknown parameter 'module'", id="within a training",
    ),
    pytest.param(
        [INT8, _step("structured", share=0.5)],
        "step 2, 'structured', cannot follow 'int8': the model is an ONNX graph", id="the order",
    ),
    pytest.param([_step("sparse-n:m", n=4)], "m must be larger than n, which is 4", id="n and m"),
    pytest.param(
        [_step("unstructured")], "step 1, unstructured: set either share,", id="neither of two"
    ),
    pytest.param(
        [_step("low-rank", energy=0.9, break_even=0.5)], "set either energy or", id="both of two"
    ),
    pytest.param(
        [_step("activation-pruning", mean_below=0.1)], "set either both mean_below", id="one of two"
    ),
    pytest.param(
        [_step("unstructured", share=0.5, scope="global", criterion="wanda")],
        "wanda does not support the scope global", id="scope",
    ),
    pytest.param(
        [_step("structured", share=0.5, recover={})], "rounds of at least 2", id="one round"
    ),
    pytest.param([INT8] * 9, "at most 8 steps", id="many steps"),
    pytest.param([_step("recover", epochs=101)], "at most 100 epochs .* not 101", id="epochs"),
    pytest.param([_step("recover", epochs=60)] * 2, "100 epochs .* not 120", id="epochs of two"),
    pytest.param(
        [_step("lottery-ticket", epochs=20)], "100 epochs .* not 120", id="epochs in rounds"
    ),
    pytest.param(
        [_step("unstructured", share=0.5, rounds=52, recover={})], "not 102", id="epochs between"
    ),
    pytest.param([_step("structured", share=0.5, rounds=1000)], "not 999", id="rounds"),
]  # fmt: skip


def _checked(recipe: bytes) -> object:
    """Return a recipe in the body of a request after all checks."""
    found = parse_body(Replacement, b'{"recipe": ' + recipe + b"}").recipe
    assert isinstance(found, tuple)
    check_recipe(found, LIMITS)
    return found


@pytest.mark.parametrize(("recipe", "message"), HOSTILE)
def test_a_hostile_recipe_gets_one_short_sentence(recipe: Any, message: str) -> None:
    content = recipe if isinstance(recipe, bytes) else json.dumps(recipe).encode()
    with pytest.raises(InvalidRequest, match=message) as caught:
        _checked(content)
    text = str(caught.value)
    assert len(text) < 500
    assert "\n" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "parameters",
    [
        {"exclude": ["x" * 70_000]},
        {"max_drop": float("nan")},
        {"seed": 10**400},
        {"exclude": [object()]},
    ],
    ids=["giant", "not a number", "beyond 64 bits", "not data"],
)
def test_a_parsed_recipe_is_bounded_too(parameters: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, RequestTooLarge)):
        check_recipe((Step(technique="int8", parameters=parameters),), LIMITS)


@pytest.mark.parametrize(
    "recipe",
    [
        [],
        [INT8],
        [_step("structured", share=0.5), _step("recover", epochs=6, distill=0.5), INT8],
        [INT8, _step("recover")],
        [_step("unstructured", shares={"1": 0.5, "3": 0.7}), _step("sparse-n:m")],
        [_step("int8", exclude=["blocks.0.*"], max_drop=None)],
    ],
)
def test_a_valid_recipe_is_returned_as_it_is(recipe: list[dict[str, Any]]) -> None:
    assert _checked(json.dumps(recipe).encode()) == _recipe(*recipe)


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        ([INT8], 0),
        ([_step("recover")], 2),
        ([_step("recover", epochs=6), INT8, _step("recover", epochs=1)], 7),
        ([_step("structured", share=0.5, rounds=4, recover={"epochs": 3})], 9),
        ([_step("lottery-ticket", epochs=2, rounds=3)], 8),
    ],
)
def test_epochs_are_counted_over_all_steps(steps: list[dict[str, Any]], epochs: int) -> None:
    assert training_epochs(_recipe(*steps)) == epochs


def test_recipes_are_checked_without_torch() -> None:
    script = (
        "import sys; from serving.control.recipes import check_recipe; "
        "from serving.control.settings import Builder; "
        "from variants.catalog.recipe import Step; "
        "check_recipe((Step(technique='int8'),), Builder()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
