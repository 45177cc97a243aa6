"""Contract of `asgi_exchange.py` and `flow_control.py` with the undocumented parts of uvicorn.

If a test fails after an update of uvicorn, compare these two modules with the new version, adapt
them, and move the version range in pyproject.toml.
"""

from __future__ import annotations

import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

METHODS = {
    (RequestResponseCycle, "__init__"): [
        "scope",
        "transport",
        "flow",
        "logger",
        "access_logger",
        "access_log",
        "default_headers",
        "message_event",
        "expect_100_continue",
        "keep_alive",
        "on_response",
    ],
    (RequestResponseCycle, "run_asgi"): ["app"],
    (FlowControl, "__init__"): ["transport"],
    (FlowControl, "pause_reading"): [],
    (FlowControl, "resume_reading"): [],
    (FlowControl, "pause_writing"): [],
    (FlowControl, "resume_writing"): [],
}
"""The methods that these modules override or call, with the names of their parameters."""

ATTRIBUTES = {
    RequestResponseCycle: (
        "body",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
    ),
    FlowControl: ("read_paused", "write_paused"),
}
"""The attributes that these modules use."""


@pytest.mark.parametrize(
    ("owner", "name"), METHODS, ids=lambda part: getattr(part, "__name__", part)
)
def test_methods_have_the_expected_parameters(owner: type, name: str) -> None:
    method = getattr(owner, name, None)
    assert method is not None, f"uvicorn {uvicorn.__version__} has no {owner.__name__}.{name}"
    _, *parameters = inspect.signature(method).parameters
    assert parameters == METHODS[owner, name], (
        f"uvicorn {uvicorn.__version__} has changed the parameters of {owner.__name__}.{name}"
    )


@pytest.mark.parametrize("owner", ATTRIBUTES)
def test_objects_have_the_expected_attributes(owner: type) -> None:
    source = inspect.getsource(owner)
    missing = [name for name in ATTRIBUTES[owner] if f"self.{name} =" not in source]
    assert not missing, f"uvicorn {uvicorn.__version__} lacks these attributes"
