"""A service in a process of its own, started as from a terminal, whose processes can be killed."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.service import images
from tests.waiting import GIVE_UP_S, wait_until
from variants.catalog.catalog import Model

PARETOSERVE: Final = Path(sys.executable).with_name("paretoserve")
ROOT: Final = Path(__file__).parents[2]

RAY_FAILED: Final = "Ray could not be started"
"""The constant of `serving.cluster.start`, whose import would import ray."""

GATEWAY: Final = "ray::ServeReplica:gateway"
CONTROLLER: Final = "ray::ServeController"
BUILDER: Final = "ray::BuilderActor"
BUILD: Final = "variants.build.generation"

DEADLINE_MS: Final = 60_000
PAUSE_S: Final = 0.02


def host(variant: str, generation: int) -> str:
    """Return the start of the title of the process of a host."""
    return f"ray::ServeReplica:v-{variant}-g{generation}:"


@dataclass
class LiveService:
    """A running `paretoserve up`."""

    process: subprocess.Popen[bytes]
    catalog: Path
    url: str

    def admin(self) -> httpx.Client:
        """Return a client with the token that the first start has made."""
        token = (self.catalog / ".control" / "admin-token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        # Without `verify`, a client does not load certificates, which takes 50 ms of CPU time.
        return httpx.Client(
            base_url=f"{self.url}/v2/admin", headers=headers, timeout=GIVE_UP_S, verify=False
        )

    def submit(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> str:
        """Send an admin request; return the identifier of the job that it makes."""
        with self.admin() as client:
            answer = client.request(method, path, json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return self._get(f"/jobs/{job_id}")

    def wait_for(self, job_id: str) -> dict[str, Any]:
        """Return a job once it is over."""
        wait_until(lambda: self._is_over(job_id))
        return self.job(job_id)

    def wait_until_kept(self, variant: str, generation: int) -> None:
        """Return once a former generation is drained, so that it can be published again."""
        wait_until(lambda: self._state(variant, generation) == "kept")

    def published(self) -> dict[str, int]:
        """Return the generations that should be served, by variant."""
        variants = self._get("/variants")["variants"]
        return {each["name"]: each["published"] for each in variants if each["published"]}

    def error(self, variant: str) -> str | None:
        """Return the last error of a variant."""
        with self.admin() as client:
            error: str | None = client.get(f"/variants/{variant}").json()["error"]
        return error

    def is_routed(self, variant: str, generation: int) -> bool:
        """Return whether a request that names the variant is answered by this generation."""
        answer = infer(self.url, self.catalog, {"variant": variant})
        return answer is not None and answer == (200, generation)

    def pids(self, title: str) -> list[int]:
        """Return the processes of the service whose command line contains a text."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def kill(self, title: str) -> None:
        """Kill the only process with this title at once."""
        os.kill(self._only(title), signal.SIGKILL)

    @contextmanager
    def stopped(self, title: str) -> Iterator[None]:
        """Stop the only process with this title within a `with`."""
        pid = self._only(title)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _only(self, title: str) -> int:
        """Return the only process with this title once there is one."""
        found: list[int] = []

        def is_only() -> bool:
            found[:] = self.pids(title)
            return len(found) == 1

        wait_until(is_only)
        return found[0]

    def _get(self, path: str) -> dict[str, Any]:
        with self.admin() as client:
            answer = client.get(path).raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def _is_over(self, job_id: str) -> bool:
        try:
            return self.job(job_id)["status"] not in ("queued", "running")
        except httpx.HTTPError:  # the gateway was killed, or its successor is starting
            return False

    def _state(self, variant: str, generation: int) -> str:
        generations = self._get(f"/variants/{variant}")["generations"]
        return next(str(each["state"]) for each in generations if each["number"] == generation)


@contextmanager
def live_service(catalog: Path, project: Path, output: Path) -> Iterator[LiveService]:
    """Run `paretoserve up` on free ports; end it in the end, whatever is left of it.

    The ports are chosen here, so that a gateway that replaces a killed one has the same.
    """
    ports = [free_port() for _ in "ab"]
    arguments = ["--catalog", str(catalog), "--project", str(project)]
    arguments += ["--port", str(ports[0]), "--grpc-port", str(ports[1])]
    process = start_up(arguments, output)
    children: list[psutil.Process] = []
    try:
        url = re.search(r"on\s+(http://127\.0\.0\.1:\d+)", output.read_text())
        assert url, output.read_text()
        children = psutil.Process(process.pid).children(recursive=True)
        yield LiveService(process, catalog, url[1])
    finally:
        if process.poll() is None:
            children += psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        kill_all(children)


def start_up(arguments: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Run `paretoserve up` in a session of its own, as in a terminal, until it is ready or ends.

    Its output is written to the file `output`.
    """
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PARETOSERVE_CONTROL__ROLLBACK_WINDOW_S": "0",  # replaced hosts end at once
    }
    for _ in range(6):  # Ray has a time limit of 30 s, which a busy machine may exceed
        with output.open("wb") as file:
            process = subprocess.Popen(
                [PARETOSERVE, "up", *arguments],
                stdout=file,
                stderr=file,
                start_new_session=True,
                env=environment,
            )
        wait_until(partial(_has_started_or_ended, process, output))
        if RAY_FAILED not in output.read_text():
            break
    return process


def _has_started_or_ended(process: subprocess.Popen[bytes], output: Path) -> bool:
    return "curl" in output.read_text() or process.poll() is not None


def free_port() -> int:
    """Return a port that is free and that the system does not assign by itself.

    Nothing may take it before the service listens, nor while a killed gateway is replaced: neither
    a process that asks for any port, nor a connection to this port, which may get it as its own.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def kill_all(processes: list[psutil.Process]) -> None:
    """Kill processes that are left, and wait for their end."""
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=60)


def infer(url: str, catalog: Path, parameters: dict[str, Any]) -> tuple[int, int | None] | None:
    """Send one request; return the status and the generation, or None without an answer."""
    pixels = images(1)
    document = {
        "parameters": parameters,
        "inputs": [
            {
                "name": "input",
                "datatype": "FP32",
                "shape": list(pixels.shape),
                "data": pixels.reshape(-1).tolist(),
            }
        ],
    }
    path = f"{url}/v2/models/{Model.load(catalog).name}/infer"
    try:
        answer = httpx.post(path, json=document, timeout=GIVE_UP_S, verify=False)
    except httpx.HTTPError:
        return None
    generation = answer.json().get("parameters", {}).get("generation")
    return answer.status_code, generation


@dataclass
class Load:
    """Requests that a thread sends one after another.

    Their deadline is so long that a busy machine meets it: no answer but 200 is expected. Between
    them is a pause, in which builds get CPU time in spite of their low priority.
    """

    service: LiveService
    results: Counter[int | None] = field(default_factory=Counter)
    """Answers by status; None counts connections that broke."""

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            answer = infer(self.service.url, self.service.catalog, {"slo_latency_ms": DEADLINE_MS})
            self.results[answer[0] if answer else None] += 1
            time.sleep(PAUSE_S)

    def wait_for_more(self, count: int) -> None:
        """Return after so many further answers."""
        before = self.results[200]
        wait_until(lambda: self.results[200] >= before + count)


@contextmanager
def load(service: LiveService) -> Iterator[Load]:
    """Send requests from two threads."""
    sent, stop = Load(service), threading.Event()
    threads = [threading.Thread(target=sent.run, args=(stop,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        sent.wait_for_more(10)
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()
