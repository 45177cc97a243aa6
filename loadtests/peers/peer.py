"""The peers as targets: their programs in `servers/`, their settings and their requests.

Every peer has one process that runs the model with one thread, and batches of at most 64 samples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from loadtests.peers import environment, exchange
from loadtests.peers.exchange import Exchange, Logits
from loadtests.peers.process import free_port, run_child
from loadtests.peers.reference import Reference
from loadtests.peers.target import Running, Scenario, Target

MOSEC_WAIT_MS: Final = 5
PORT: Final = "PORT"
"""Stands for the port in the arguments of a program."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server program, where it runs and what it is sent."""

    name: str
    program: str
    """Module in `servers/`."""
    environment: str
    """Name of the virtual environment; empty for Paretoserve's own interpreter."""
    arguments: tuple[str, ...]
    exchange: Exchange


def list_peers(reference: Reference) -> tuple[Peer, ...]:
    """Return all peers, the baseline first."""
    features, model, path = reference.features, reference.model, str(reference.path)
    triton = (
        *(model.inputs[0].name, str(features.size)),
        *(model.outputs[0].name, str(model.outputs[0].shape[1])),
    )
    v2 = "/v2/models/model/infer"
    mosec = exchange.raw("/inference", features)
    lit = exchange.base64_json("/predict", lambda text: {"input": text}, features)
    bento = exchange.base64_json("/classify", lambda text: {"samples": [text]}, features)
    return (
        Peer("uvicorn", "uvicorn_server", "", (PORT,), exchange.unread("/", features)),
        Peer("mosec", "mosec_server", "mosec", (path, PORT, "0"), mosec),
        Peer("mosec-wait", "mosec_server", "mosec", (path, PORT, str(MOSEC_WAIT_MS)), mosec),
        Peer(
            "triton",
            "triton_server",
            "triton",
            (path, PORT, *triton),
            exchange.v2_binary(v2, features, model),
        ),
        Peer(
            "mlserver",
            "mlserver_server",
            "mlserver",
            (path, PORT),
            exchange.v2_base64(v2, features, model),
        ),
        Peer("litserve", "litserve_server", "litserve", (path, PORT), lit),
        Peer("bentoml", "bentoml_server", "bentoml", (path, PORT), bento),
    )


def target(peer: Peer, expected: Mapping[str, Logits], on_install: Callable[[str], None]) -> Target:
    """Return a peer as a target that answers with the expected logits, given by variant.

    Builds its environment if necessary; `on_install` is called before.

    Raises RuntimeError with the reason if that fails.
    """
    python = Path(sys.executable)
    if peer.environment:
        python = environment.prepare(peer.environment, on_install)
    scenario = Scenario(peer.name, peer.exchange, expected)
    return Target(peer.name, partial(_start, peer, python), (scenario,))


@contextmanager
def _start(peer: Peer, python: Path) -> Iterator[Running]:
    port = free_port()
    arguments = [str(port) if argument == PORT else argument for argument in peer.arguments]
    command = [str(python), "-m", f"loadtests.peers.servers.{peer.program}", *arguments]
    with run_child(command, environment.FOLDER / "logs" / f"{peer.name}.log") as child:
        yield Running(port, child.require_running)
