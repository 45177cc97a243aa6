from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidRequest
from serving.routing.slo import DEFAULT_PRIORITY, HEADERS, MAX_PRIORITY, PARAMETERS, Slo, parse

DEFAULT = Slo(latency_s=0.5, min_accuracy=0.7, objective="cost")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        pytest.param({}, Slo(), id="no parameters: no limits"),
        pytest.param({"slo_latency_ms": 20}, Slo(latency_s=0.020), id="milliseconds"),
        pytest.param(
            {"slo_latency_ms": 0.5}, Slo(latency_s=0.0005), id="a fraction of a millisecond"
        ),
        pytest.param({"timeout": 0}, Slo(), id="a V2 timeout of 0: no deadline"),
        pytest.param(
            {"timeout": 20_000}, Slo(latency_s=0.020), id="the V2 timeout is in microseconds"
        ),
        pytest.param(
            {"slo_latency_ms": 5, "timeout": 20_000},
            Slo(latency_s=0.005),
            id="slo_latency_ms over timeout",
        ),
        pytest.param({"min_accuracy": 0}, Slo(min_accuracy=0), id="the lowest minimum accuracy"),
        pytest.param({"min_accuracy": 1}, Slo(min_accuracy=1), id="the highest minimum accuracy"),
        pytest.param({"max_accuracy_drop": 0.01}, Slo(max_accuracy_drop=0.01), id="a drop"),
        pytest.param({"objective": "latency"}, Slo(objective="latency"), id="an objective"),
        pytest.param({"priority": 1}, Slo(priority=1), id="the highest priority"),
        pytest.param({"priority": 0}, Slo(priority=DEFAULT_PRIORITY), id="0 is the default"),
        pytest.param({"priority": 2.0}, Slo(priority=2), id="a whole number as a float"),
        pytest.param({"priority": MAX_PRIORITY}, Slo(priority=MAX_PRIORITY), id="the lowest"),
        pytest.param({"variant": "int8"}, Slo(variant="int8"), id="one variant"),
        pytest.param({"sequence_id": 7, "other": []}, Slo(), id="other parameters are ignored"),
    ],
)
def test_parameters(parameters: dict[str, Any], expected: Slo) -> None:
    assert parse(parameters, {}, Slo()) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"x-slo-latency-ms": "20"}, Slo(latency_s=0.020), id="milliseconds"),
        pytest.param({"x-slo-min-accuracy": "0.9"}, Slo(min_accuracy=0.9), id="a minimum accuracy"),
        pytest.param({"x-slo-max-accuracy-drop": "1e-2"}, Slo(max_accuracy_drop=0.01), id="a drop"),
        pytest.param({"x-slo-objective": "cost"}, Slo(objective="cost"), id="an objective"),
        pytest.param({"x-slo-priority": "3"}, Slo(priority=3), id="a priority"),
        pytest.param({"x-slo-variant": "int8"}, Slo(variant="int8"), id="one variant"),
        pytest.param({"x-slo-variant": "8"}, Slo(variant="8"), id="a variant whose name is 8"),
        pytest.param(
            {"x-slo-variant": "nan"}, Slo(variant="nan"), id="a variant whose name is nan"
        ),
        pytest.param({"x-slo-colour": "red"}, Slo(), id="other headers are ignored"),
    ],
)
def test_headers(headers: dict[str, str], expected: Slo) -> None:
    assert parse({}, headers, Slo()) == expected


def test_a_parameter_takes_precedence_over_a_header() -> None:
    headers = {"x-slo-latency-ms": "20", "x-slo-priority": "3"}
    assert parse({"slo_latency_ms": 5}, headers, Slo()) == Slo(latency_s=0.005, priority=3)
    assert parse({"timeout": 5_000}, headers, Slo()) == Slo(latency_s=0.005, priority=3)


def test_missing_fields_come_from_the_default() -> None:
    assert parse({}, {}, DEFAULT) is DEFAULT
    assert parse({"priority": 2}, {}, DEFAULT) == Slo(0.5, 0.7, 1.0, "cost", 2, None)


MILLISECONDS = "a number of milliseconds above 0"
PRIORITY = f"a whole number from 0 (default) or 1 (highest) to {MAX_PRIORITY}"


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("slo_latency_ms", 0, "must be above 0 milliseconds, got 0"),
        ("slo_latency_ms", -1.5, "must be above 0 milliseconds, got -1.5"),
        ("slo_latency_ms", "20", f"must be {MILLISECONDS}, got '20'"),
        ("slo_latency_ms", True, f"must be {MILLISECONDS}, got true"),
        ("slo_latency_ms", None, f"must be {MILLISECONDS}, got null"),
        ("slo_latency_ms", math.nan, f"must be {MILLISECONDS}, got nan"),
        ("slo_latency_ms", math.inf, f"must be {MILLISECONDS}, got inf"),
        ("slo_latency_ms", [20], f"must be {MILLISECONDS}, got [20]"),
        ("timeout", -1, "must be at least 0 microseconds, got -1"),
        ("timeout", {}, "must be a number of microseconds, got {}"),
        ("min_accuracy", 1.01, "must be from 0 to 1, got 1.01"),
        ("min_accuracy", -0.01, "must be from 0 to 1, got -0.01"),
        ("min_accuracy", "high", "must be a number from 0 to 1, got 'high'"),
        ("max_accuracy_drop", 2, "must be from 0 to 1, got 2"),
        ("objective", "speed", "must be one of accuracy, latency, cost, got 'speed'"),
        ("objective", ["cost"], "must be one of accuracy, latency, cost, got ['cost']"),
        ("objective", None, "must be one of accuracy, latency, cost, got null"),
        ("priority", -1, f"must be {PRIORITY}, got -1"),
        ("priority", 1.5, f"must be {PRIORITY}, got 1.5"),
        ("priority", 2**32, f"must be {PRIORITY}, got 4294967296"),
        ("priority", "1", f"must be {PRIORITY}, got '1'"),
        ("variant", "", "must be the name of a variant, got ''"),
        ("variant", 8, "must be the name of a variant, got 8"),
        ("variant", None, "must be the name of a variant, got null"),
    ],
)
def test_the_error_for_an_invalid_parameter_has_the_allowed_values(
    parameter: str, value: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({parameter: value}, {}, Slo())
    assert str(refused.value) == f"parameter {parameter!r} {message}"


@pytest.mark.parametrize(
    ("header", "text", "message"),
    [
        ("x-slo-latency-ms", "soon", f"must be {MILLISECONDS}, got 'soon'"),
        ("x-slo-latency-ms", "nan", f"must be {MILLISECONDS}, got 'nan'"),
        ("x-slo-latency-ms", "1e999", f"must be {MILLISECONDS}, got '1e999'"),
        ("x-slo-latency-ms", "", f"must be {MILLISECONDS}, got ''"),
        ("x-slo-latency-ms", "-5", "must be above 0 milliseconds, got -5"),
        ("x-slo-min-accuracy", "90", "must be from 0 to 1, got 90"),
        ("x-slo-max-accuracy-drop", "1 %", "must be a number from 0 to 1, got '1 %'"),
        ("x-slo-objective", "1", "must be one of accuracy, latency, cost, got '1'"),
        ("x-slo-priority", "high", f"must be {PRIORITY}, got 'high'"),
        ("x-slo-variant", "", "must be the name of a variant, got ''"),
    ],
)
def test_the_error_for_an_invalid_header_has_the_allowed_values(
    header: str, text: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({}, {header: text}, Slo())
    assert str(refused.value) == f"header {header} {message}"


def test_an_invalid_header_is_an_error_even_if_a_parameter_takes_precedence() -> None:
    with pytest.raises(InvalidRequest, match="header x-slo-priority"):
        parse({"priority": 1}, {"x-slo-priority": "high"}, Slo())


def test_the_error_for_a_long_value_is_short() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({"objective": "x" * 1_000_000}, {}, Slo())
    assert len(str(refused.value)) < 300


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)


def parse_or_error(parameters: dict[str, Any], headers: dict[str, str]) -> Slo | str:
    """Return the SLO or the text of the error."""
    try:
        return parse(parameters, headers, Slo())
    except InvalidRequest as error:
        return str(error)


@given(st.dictionaries(st.sampled_from(sorted(PARAMETERS)), json_values))
def test_any_json_value_is_a_valid_slo_or_an_error(
    parameters: dict[str, Any],
) -> None:
    parameters = orjson.loads(orjson.dumps(parameters))
    slo = parse_or_error(parameters, {})
    if isinstance(slo, str):
        assert slo.startswith("parameter ")
        return
    assert slo.latency_s > 0
    assert 0 <= slo.min_accuracy <= 1
    assert 0 <= slo.max_accuracy_drop <= 1
    assert slo.objective in ("accuracy", "latency", "cost")
    assert 1 <= slo.priority <= MAX_PRIORITY
    assert slo.variant is None or slo.variant


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text()))
def test_any_header_value_is_a_valid_slo_or_an_error(headers: dict[str, str]) -> None:
    slo = parse_or_error({}, headers)
    if isinstance(slo, str):
        assert slo.startswith("header ")
        return
    assert slo.latency_s > 0
    assert 1 <= slo.priority <= MAX_PRIORITY


def test_every_header_has_a_parameter_of_its_own() -> None:
    by_header = {
        name: "x-slo-" + name.removeprefix("slo_").replace("_", "-") for name in PARAMETERS
    }
    del by_header["timeout"]  # gRPC and HTTP have their own time-outs
    assert sorted(by_header.values()) == sorted(HEADERS)
