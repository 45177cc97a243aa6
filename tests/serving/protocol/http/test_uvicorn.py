"""Contract of `limited_connection.py` and `listener.py` with the undocumented parts of uvicorn.

If a test fails after an update of uvicorn, compare these two modules with the new version, adapt
them, and move the version range in pyproject.toml.
"""

from __future__ import annotations

import asyncio
import inspect

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tests.serving.protocol.http.sockets import read_then_respond

METHODS = {
    (HttpToolsProtocol, "__init__"): ["config", "server_state", "app_state", "_loop"],
    (HttpToolsProtocol, "connection_made"): ["transport"],
    (HttpToolsProtocol, "connection_lost"): ["exc"],
    (HttpToolsProtocol, "data_received"): ["data"],
    (HttpToolsProtocol, "on_headers_complete"): [],
    (HttpToolsProtocol, "on_body"): ["body"],
    (HttpToolsProtocol, "on_message_complete"): [],
    (HttpToolsProtocol, "timeout_keep_alive_handler"): [],
    (HttpToolsProtocol, "_start_asgi_task"): ["cycle", "app"],
    (HttpToolsProtocol, "_unset_keepalive_if_required"): [],
    (RequestResponseCycle, "run_asgi"): ["app"],
    (FlowControl, "__init__"): ["transport"],
    (FlowControl, "resume_reading"): [],
    (uvicorn.Server, "capture_signals"): [],
    (uvicorn.Server, "serve"): ["sockets"],
}
"""The methods that these modules override or call, with the names of their parameters."""

CONNECTION = {
    "cycle",
    "flow",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "scope",
    "tasks",
    "timeout_keep_alive",
    "timeout_keep_alive_task",
    "transport",
}
CYCLE = ("disconnected", "keep_alive", "response_complete", "response_started")
SERVER = {"started", "should_exit"}
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


async def test_objects_have_the_expected_attributes() -> None:
    config = uvicorn.Config(
        read_then_respond, interface="asgi3", ws="none", lifespan="off", log_config=None
    )
    connection = HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    cycle = inspect.getsource(RequestResponseCycle.__init__)
    missing = (
        CONNECTION - vars(connection).keys()
        | {name for name in CYCLE if f"self.{name} =" not in cycle}
        | SERVER - vars(uvicorn.Server(config)).keys()
    )
    assert not missing, f"uvicorn {uvicorn.__version__} lacks these attributes"
