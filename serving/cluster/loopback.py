"""Keeps a replica on loopback in a cluster that runs on loopback only."""

from __future__ import annotations

from typing import Any, Final

from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica
from ray.util import get_node_ip_address

LOOPBACK: Final = "127.0.0.1"
"""Address on which Ray listens in a cluster that `paretoserve up` has started."""


def keep_on_loopback() -> None:
    """Let Serve's own gRPC server listen on loopback if the node does.

    Serve starts one in every replica, for calls between deployments, on all addresses. Call this in
    the constructor of a deployment: the server is started after it.
    """
    if get_node_ip_address() == LOOPBACK:  # type: ignore[no-untyped-call]
        replica.add_port_to_grpc_server = _add_port  # type: ignore[attr-defined]


def _add_port(server: Any, address: str) -> Any:
    port = address.rpartition(":")[2]
    return add_port_to_grpc_server(server, f"{LOOPBACK}:{port}")  # type: ignore[no-untyped-call]
