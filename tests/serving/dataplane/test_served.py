"""What the data plane serves while its variants change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import BatchResult
from serving.dataplane.served import ServedVariants
from serving.errors import ModelNotFound, NotReady, SloUnattainable
from serving.experiment.assignment import Arm, Experiment
from serving.routing.profile import VariantProfile
from serving.routing.slo import Slo
from tests.serving.builders import PROFILES, InProcess, in_process, multiply, pixels, profile

NEXT = replace(PROFILES["int8"], generation=2, accuracy=0.5, tier_accuracy=0.5)


def serve(gateway: InProcess, profiles: dict[str, VariantProfile], *retired: str) -> None:
    """Change the variants as a gateway does; the retired keys stay in the scheduler."""
    by_key = {each.key: each for each in profiles.values()}
    for key, each in by_key.items():
        if not gateway.scheduler.slots(key):
            gateway.latency.add(key, each.latencies)
    accuracies = dict.fromkeys(retired, 0.0) | {
        key: each.tier_accuracy for key, each in by_key.items()
    }
    gateway.scheduler.set_variants(accuracies, dict.fromkeys(accuracies, 1))
    gateway.telemetry.serve(by_key)
    gateway.dataplane.serve(profiles)


def test_qualifying_variants_are_routing_keys() -> None:
    served = ServedVariants({"dense": PROFILES["dense"], "int8": NEXT})
    assert served.qualifying(Slo()) == ("dense@1", "int8@2")
    assert served.qualifying(Slo(variant="int8")) == ("int8@2",)
    with pytest.raises(ModelNotFound, match="no variant 'tiny'; there are dense, int8"):
        served.qualifying(Slo(variant="tiny"))
    with pytest.raises(SloUnattainable, match=r"the best accuracy is 0.9000 \(dense\)"):
        served.qualifying(Slo(min_accuracy=0.95))
    with pytest.raises(ModelNotFound, match="no variant 'int8'; there is none"):
        ServedVariants({}).check_name("int8")


async def test_an_answer_has_the_accuracy_of_the_generation_that_was_admitted() -> None:
    release = asyncio.Event()

    async def held(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        await release.wait()
        return await multiply(variant, requests)

    gateway = in_process(held)

    def request() -> asyncio.Task[object]:
        inputs = {"pixels": pixels()}
        return asyncio.create_task(gateway.infer(inputs, Slo(variant="int8")))

    first, queued = request(), request()
    await asyncio.sleep(0.01)
    serve(gateway, {"dense": PROFILES["dense"], "int8": NEXT}, "int8@1")
    new = request()
    await asyncio.sleep(0.01)
    serve(gateway, {"dense": PROFILES["dense"]}, "int8@1", "int8@2")
    with pytest.raises(ModelNotFound, match="there are dense"):
        await request()
    release.set()
    explanations = [(await task).explanation for task in (first, queued, new)]  # type: ignore[attr-defined]
    assert [(each["variant"], each["generation"], each["accuracy"]) for each in explanations] == [
        ("int8", 1, 0.88),
        ("int8", 1, 0.88),
        ("int8", 2, 0.5),
    ]


async def test_statistics_are_those_of_the_generation_that_is_served() -> None:
    gateway = in_process()
    inputs = {"pixels": pixels()}
    await gateway.infer(inputs, Slo(variant="int8"))
    assert gateway.dataplane.statistics("int8").success.count == 1
    serve(gateway, {"dense": PROFILES["dense"], "int8": NEXT})
    assert gateway.dataplane.statistics("int8").success.count == 0
    assert gateway.dataplane.statistics("dense").success.count == 0


async def test_ready_stays_true_when_variants_are_added_and_ends_without_variants() -> None:
    gateway = in_process()
    assert gateway.dataplane.readiness.is_ready
    serve(gateway, {**PROFILES, "tiny": profile("tiny", 0.7)})
    gateway.scheduler.set_slots("tiny@1", 0)
    assert gateway.dataplane.readiness.is_ready
    assert not gateway.dataplane.readiness.is_variant_ready("tiny")
    gateway.dataplane.serve({})
    assert not gateway.dataplane.readiness.is_ready
    with pytest.raises(NotReady):
        await gateway.infer({"pixels": pixels()})
    gateway.dataplane.serve(PROFILES)
    assert gateway.dataplane.readiness.is_ready


async def test_an_experiment_pauses_while_a_variant_of_its_arms_is_not_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arms = (Arm(name="a", target="router", weight=1), Arm(name="b", target="int8", weight=1))
    gateway = in_process(experiment=Experiment(name="test", arms=arms))

    async def arm() -> object:
        inputs = {"pixels": pixels()}
        answer = await gateway.infer(inputs, unit="unit")
        return answer.explanation.get("arm")

    assigned = await arm()
    assert assigned in {"a", "b"}
    with caplog.at_level(logging.WARNING):
        serve(gateway, {"dense": PROFILES["dense"]})
    assert "the experiment is paused" in caplog.text
    assert await arm() is None
    serve(gateway, {"dense": PROFILES["dense"], "int8": replace(NEXT, generation=3)})
    assert await arm() == assigned, "a unit has changed its arm"
