"""Builds parts of a gateway for tests, with defaults for all that a test does not vary."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry

from serving.dataplane.awaiting import ended
from serving.dataplane.batching import Arrays, join, split
from serving.dataplane.call import Answer
from serving.dataplane.clock import LoopClock
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.delivery import Delivery
from serving.dataplane.executor import BatchResult
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.scheduler import Scheduler
from serving.experiment.assignment import Experiment
from serving.protocol.control import Control
from serving.protocol.documents import Documents
from serving.protocol.front_door import FrontDoor
from serving.protocol.http.application import HttpProtocol
from serving.protocol.http.inference_endpoint import InferenceEndpoint
from serving.protocol.http.site import Site
from serving.protocol.inference import Inference
from serving.routing.generation import variant_name
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.pareto import pareto
from serving.routing.profile import LatencyQuantiles, VariantProfile
from serving.routing.slo import Slo
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from serving.telemetry.telemetry import Telemetry
from tests.serving.dataplane.async_run import AsyncRun, from_async
from tests.serving.protocol.http.memory import ConnectionTransport
from variants.catalog.catalog import Model, TensorSpec

MODEL = Model(
    name="shirts",
    factory="m:f",
    weights_sha256="",
    datasets_sha256="",
    inputs=(TensorSpec(name="pixels", datatype="FP32", shape=(-1, 4)),),
    outputs=(
        TensorSpec(name="logits", datatype="FP32", shape=(-1, 3)),
        TensorSpec(name="label", datatype="INT64", shape=(-1,)),
    ),
)

WEIGHTS: Mapping[str, npt.NDArray[np.float32]] = {
    "dense": np.arange(12, dtype=np.float32).reshape(4, 3),
    "int8": -np.arange(12, dtype=np.float32).reshape(4, 3),
}
"""The only layer of each variant. They differ, so an answer shows which variant computed it."""

LATENCIES_S = {1: 0.001, 8: 0.002, 64: 0.008}


def exactly(latencies_s: Mapping[int, float]) -> dict[int, LatencyQuantiles]:
    """Return the latencies of a variant whose batches always take the same time."""
    return {size: LatencyQuantiles(took_s, took_s, took_s) for size, took_s in latencies_s.items()}


def profile(
    variant: str = "dense",
    accuracy: float = 0.9,
    latencies_s: Mapping[int, float] | None = None,
    *,
    tier: float | None = None,
    drop: float = 0.0,
    agreement: float = 1.0,
    weight_bytes: int = 4_000,
    artifact_bytes: int = 5_000,
) -> VariantProfile:
    """Return a profile; `tier` is the accuracy of its tier, by default its own."""
    return VariantProfile(
        variant=variant,
        accuracy=accuracy,
        tier_accuracy=accuracy if tier is None else tier,
        accuracy_drop=drop,
        agreement=agreement,
        weight_bytes=weight_bytes,
        artifact_bytes=artifact_bytes,
        latencies=exactly(LATENCIES_S if latencies_s is None else latencies_s),
    )


PROFILES = {
    "dense": profile("dense", 0.90),
    "int8": profile("int8", 0.88, {1: 0.0005, 8: 0.001, 64: 0.004}, drop=0.03, agreement=0.97),
}


def pixels(samples: int = 1, start: float = 0.0) -> npt.NDArray[np.float32]:
    """Return this number of samples, all of them different."""
    return np.arange(start, start + samples * 4, dtype=np.float32).reshape(samples, 4)


def answers(variant: str, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of the variant for these inputs."""
    logits = inputs["pixels"] @ WEIGHTS[variant_name(variant)]
    return {"logits": logits, "label": logits.argmax(axis=1)}


async def multiply(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
    """Run a batch without a link, apply the layer of the variant, given by its routing key."""
    sizes = [len(request["pixels"]) for request in requests]
    await asyncio.sleep(0)
    return BatchResult(split(answers(variant, join(requests)), sizes), compute_s=1e-4)


@dataclass(frozen=True)
class InProcess:
    """A gateway without listeners, link and hosts."""

    protocol: HttpProtocol
    endpoint: InferenceEndpoint
    inference: Inference
    documents: Documents
    dataplane: DataPlane
    scheduler: Scheduler[Arrays, Arrays]
    latency: LatencyModel
    telemetry: Telemetry
    registry: CollectorRegistry
    control: Control | None
    delivery: Delivery = field(default_factory=Delivery)
    """That of the requests of `infer`."""

    def client(self) -> httpx.AsyncClient:
        """Return an HTTP client whose connections have no sockets."""
        site = Site(
            app=self.protocol,
            endpoint=self.endpoint,
            front_door=FrontDoor(LoadShedder(), lambda: None),
        )
        return httpx.AsyncClient(transport=ConnectionTransport(site), base_url="http://gateway")

    async def infer(
        self,
        inputs: Arrays,
        slo: Slo | None = None,
        *,
        outputs: Collection[str] = (),
        unit: str | None = None,
    ) -> Answer:
        """Return the answer of the data plane to a request that arrives now."""
        received = LoopClock().time()
        return await ended(
            lambda on_end: self.dataplane.submit(
                inputs, outputs, slo or Slo(), unit, received, on_end, self.delivery
            ),
            self.dataplane.cancel,
        )


def in_process(
    run: AsyncRun[Arrays] = multiply,
    *,
    model: Model = MODEL,
    profiles: Mapping[str, VariantProfile] = PROFILES,
    slots: int = 1,
    max_batch: int = 64,
    max_queue: int = 100,
    max_body_bytes: int = 1_000_000,
    default_slo: Slo | None = None,
    experiment: Experiment | None = None,
    control: Control | None = None,
) -> InProcess:
    """Return a gateway in the running loop; each variant has `slots` slots from the start."""
    clock = LoopClock()
    registry = CollectorRegistry()
    metrics = Metrics(registry, model.name)
    by_key = {profile.key: profile for profile in profiles.values()}
    latency = LatencyModel({key: profile.latencies for key, profile in by_key.items()}, clock.time)
    planner = Planner[Any](
        pareto,
        latency,
        {key: profile.tier_accuracy for key, profile in by_key.items()},
        max_batch=max_batch,
        max_queue=max_queue,
    )
    scheduler = Scheduler(
        planner,
        from_async(run),
        clock,
        on_decision=metrics.decided,
        on_cancelled=metrics.cancelled,
        on_expired=metrics.expired,
    )
    for key, profile in by_key.items():
        latency.calibrate(key, {size: [one.p50_s] for size, one in profile.latencies.items()})
        scheduler.set_slots(key, slots)
    telemetry = Telemetry(metrics, Statistics())
    telemetry.serve(by_key)
    dataplane = DataPlane(
        model,
        profiles,
        scheduler,
        latency,
        telemetry,
        clock.time,
        max_batch=max_batch,
        shedder=LoadShedder(),
        experiment=experiment,
    )
    inference = Inference(dataplane, default_slo or Slo())
    documents = Documents(dataplane, "1.2.3", has_repository=control is not None)
    protocol = HttpProtocol(
        dataplane, documents, registry, max_body_bytes=max_body_bytes, control=control
    )
    endpoint = InferenceEndpoint(
        dataplane,
        inference,
        max_body_bytes=max_body_bytes,
        check_caller=control.check_inference if control else None,
        now=clock.time,
    )
    return InProcess(
        protocol,
        endpoint,
        inference,
        documents,
        dataplane,
        scheduler,
        latency,
        telemetry,
        registry,
        control,
    )
