"""Costs of a gateway on a command line and in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.simulator.gateway_costs import GatewayCosts, parse_gateway_costs


def test_costs_are_parsed_in_milliseconds() -> None:
    text = "request_ms=0.2,answer_ms=0.3,refusal_ms=0.1,shed_ms=0.02,batch_ms=0.5,turn_ms=1,turns=3"
    assert parse_gateway_costs(text) == GatewayCosts(
        per_request_s=0.2e-3,
        per_answer_s=0.3e-3,
        per_refusal_s=0.1e-3,
        per_shed_s=0.02e-3,
        per_batch_s=0.5e-3,
        per_turn_s=1e-3,
        turns_per_batch=3,
    )


def test_a_gateway_takes_no_time_by_default() -> None:
    assert parse_gateway_costs("") == GatewayCosts()
    assert set(GatewayCosts().model_dump().values()) == {0}


def test_the_description_is_in_the_form_of_a_command_line() -> None:
    text = "request_ms=0.21,batch_ms=0.685,turns=1"
    assert parse_gateway_costs(text).description == text


def test_costs_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    costs = GatewayCosts(per_request_s=1e-4, turns_per_batch=2)
    path.write_text(costs.model_dump_json())
    assert parse_gateway_costs(str(path)) == costs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("read_ms=1", "unknown key 'read_ms'; the keys are request_ms, answer_ms"),
        ("request_ms=-1", "request_ms must be a number of at least 0"),
        ("request_ms=inf", "request_ms must be a number of at least 0"),
        ("turns=1.5", "turns must be a whole number"),
    ],
)
def test_invalid_costs_are_rejected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_gateway_costs(text)
