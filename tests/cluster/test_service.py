"""End to end: a real Ray cluster with a gateway, hosts and clients."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import numpy as np
import numpy.typing as npt
import psutil
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from serving.routing.profile import variant_profiles
from tests.service import SIZE, RunningService, images, metric_value, wait_until_ready
from tests.waiting import wait_until
from variants.catalog.hardware import hardware

pytestmark = pytest.mark.cluster

CLIENTS = 32


def triton_infer(
    client: triton.InferenceServerClient,
    model: str,
    pixels: npt.NDArray[np.float32],
    **options: object,
) -> triton.InferResult:
    tensor = triton.InferInput("input", list(pixels.shape), "FP32")
    tensor.set_data_from_numpy(pixels, binary_data=True)
    return client.infer(model, [tensor], **options)


def test_a_request_without_an_slo_gets_the_most_accurate_variant(service: RunningService) -> None:
    profiles = variant_profiles(service.catalog, hardware(1).key)
    best = max(profile.tier_accuracy for profile in profiles.values())
    with service.client() as client:
        answers = [
            service.infer(client, images(1), headers=_control(client, service)) for _ in "ab"
        ]
    for answer in answers:
        assert answer.status_code == 200
        explanation = answer.json()["parameters"]
        chosen = profiles[explanation["variant"]]
        assert chosen.tier_accuracy == best
        assert explanation["accuracy"] == chosen.accuracy


@pytest.mark.parametrize("variant", ["dense", "activation-pruned", "sparse-2:4", "int8"])
def test_every_variant_answers_as_its_runner_does(service: RunningService, variant: str) -> None:
    pixels = images(3)
    with service.client() as client:
        answer = service.infer(client, pixels, {"variant": variant}).json()
    assert answer["model_version"] == variant
    logits = np.array(answer["outputs"][0]["data"], np.float32).reshape(3, 10)
    np.testing.assert_allclose(logits, service.answers(variant, pixels), rtol=1e-4, atol=1e-4)


def test_an_unattainable_slo_is_refused_with_what_is_attainable(service: RunningService) -> None:
    with service.client() as client:
        too_fast = service.infer(client, images(1), {"slo_latency_ms": 0.001})
        too_good = service.infer(client, images(1), {"min_accuracy": 1.0})
    assert too_fast.status_code == too_good.status_code == 422
    assert "even when idle: the fastest is" in too_fast.json()["error"]
    assert "the best accuracy is" in too_good.json()["error"]


def test_an_unmodified_triton_client_is_served(service: RunningService) -> None:
    model = service.catalog.model.name
    pixels = images(5)
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "int8")
        assert client.get_server_metadata()["name"] == "paretoserve"
        metadata = client.get_model_metadata(model)
        assert set(metadata["versions"]) == set(service.catalog.variants)
        assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, SIZE]}]
        result = triton_infer(client, model, pixels, model_version="dense", request_id="seven")
        np.testing.assert_allclose(
            result.as_numpy("logits"), service.answers("dense", pixels), rtol=1e-4, atol=1e-4
        )
        assert result.get_response()["id"] == "seven"
        assert result.get_response()["model_version"] == "dense"
        with pytest.raises(InferenceServerException, match="there is no model 'other'"):
            triton_infer(client, "other", pixels)
        with pytest.raises(InferenceServerException, match="shape"):
            triton_infer(client, model, pixels[:, :5].copy())


def test_requests_share_batches_and_answers_are_not_mixed_up(service: RunningService) -> None:
    pixels = images(640)
    expected = {name: service.answers(name, pixels) for name in service.catalog.variants}
    sizes = Counter[int]()
    lock = threading.Lock()

    def infer(first: int) -> None:
        # httpx's pool may close an idle connection that another thread has just taken.
        with service.client() as client:
            for number in range(first, len(pixels), CLIENTS):
                answer = service.infer(client, pixels[number : number + 1]).json()
                logits = np.array(answer["outputs"][0]["data"], np.float32)
                own = expected[answer["model_version"]][number]
                np.testing.assert_allclose(logits, own, rtol=1e-3, atol=1e-3)
                with lock:
                    sizes[answer["parameters"]["batch_size"]] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(infer, range(CLIENTS)))
    assert sum(sizes.values()) == len(pixels)
    assert max(sizes) > 1


def test_a_killed_host_is_replaced_and_every_request_is_answered(
    service: RunningService, in_background: Callable[[Callable[[], None]], None]
) -> None:
    statuses = Counter[int]()
    lock = threading.Lock()
    pixels = images(1)

    def send() -> None:
        with service.client() as client:
            for _ in range(20):
                # A deadline that a busy machine meets: a request may be refused if it is short.
                status = service.infer(client, pixels, {"slo_latency_ms": 60_000}).status_code
                with lock:
                    statuses[status] += 1

    for _ in range(4):
        in_background(send)
    wait_until(lambda: statuses[200] > 100)
    killed = _wait_for_host(service, "dense")
    os.kill(killed, signal.SIGKILL)
    before = statuses[200]
    wait_until(lambda: statuses[200] > before + 200)
    replacement = _wait_for_host(service, "dense", killed)
    wait_until_ready(service)
    assert set(statuses) == {200}
    assert len(_priorities(replacement)) == 1, "a thread has kept the low priority of the start"
    with service.client() as client:
        pinned = service.infer(client, pixels, {"variant": "dense"})
    assert pinned.json()["model_version"] == "dense"


def test_metrics_cover_every_variant_and_arm(service: RunningService) -> None:
    with service.client() as client:
        for number in range(200):
            headers = {"x-experiment-unit": f"user-{number}"}
            answer = service.infer(client, images(1), {"slo_latency_ms": 60_000}, headers).json()
            assert answer["parameters"]["experiment"] == "int8-or-not"
            if answer["parameters"]["arm"] == "treatment":
                assert answer["model_version"] == "int8"
        text = client.get("/metrics").text
    for name in service.catalog.variants:
        for gauge in ("weight_bytes", "artifact_bytes", "resident_bytes", "replicas", "accuracy"):
            assert metric_value(text, f"paretoserve_{gauge}", variant=name) > 0
    assert metric_value(text, "paretoserve_slo_attained_total", variant="int8", arm="treatment") > 0
    assert metric_value(text, "paretoserve_router_decision_seconds_count") > 0


def _control(client: httpx.Client, service: RunningService) -> dict[str, str]:
    """Return headers with a unit whose arm leaves the choice to the router."""
    for number in range(100):
        headers = {"x-experiment-unit": str(number)}
        answer = service.infer(client, images(1), headers=headers).json()
        if answer["parameters"]["arm"] == "control":
            return headers
    raise AssertionError("none of 100 units is in the larger arm")


def _wait_for_host(service: RunningService, variant: str, former: int = 0) -> int:
    """Return the process id of the variant's only host, once it is another than the former."""
    found = former

    def is_new() -> bool:
        nonlocal found
        found = _host_process(service, variant)
        return found not in (0, former)

    wait_until(is_new)
    return found


def _priorities(pid: int) -> set[int]:
    """Return the priorities of the threads of a process, except for those that end meanwhile."""
    priorities = set()
    for thread in psutil.Process(pid).threads():
        with suppress(ProcessLookupError):
            priorities.add(os.getpriority(os.PRIO_PROCESS, thread.id))
    return priorities


def _host_process(service: RunningService, variant: str) -> int:
    """Return the process id of the variant's only host, or 0 while it has none or is silent."""
    from ray import serve

    from serving.cluster.names import app_name

    try:
        handle = serve.get_app_handle(app_name(variant, 1))
        pid = int(handle.describe.remote().result(timeout_s=1).pid)
    except Exception:
        return 0
    return pid if psutil.pid_exists(pid) else 0
