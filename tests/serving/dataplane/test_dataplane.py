from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serving.dataplane.batching import Arrays
from serving.dataplane.call import Answer
from serving.dataplane.clock import LoopClock
from serving.dataplane.executor import BatchResult
from serving.errors import InvalidRequest, ModelNotFound, NotReady, SloUnattainable
from serving.experiment.assignment import Arm, Experiment
from serving.routing.slo import Slo
from tests.serving.builders import (
    MODEL,
    InProcess,
    answers,
    in_process,
    multiply,
    pixels,
    profile,
)
from tests.serving.dataplane.scheduler_harness import ManualClock
from variants.catalog.catalog import TensorSpec

FOUR = {
    "dense": profile("dense", 0.90, {1: 0.008, 64: 0.080}),
    "sparse": profile("sparse", 0.89, {1: 0.004, 64: 0.040}, drop=0.02),
    "int8": profile("int8", 0.88, {1: 0.002, 64: 0.020}, drop=0.03),
    "tiny": profile("tiny", 0.70, {1: 0.001, 64: 0.010}, drop=0.21),
}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The time of every gateway. It moves only when a test moves it, so no deadline passes."""
    clock = ManualClock()
    monkeypatch.setattr(LoopClock, "time", lambda _: clock.now)
    return clock


async def run_any(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
    """Run a batch without its inputs: for tests of the choice of the variant."""
    return BatchResult([{"logits": np.zeros((1, 3), np.float32)} for _ in requests], 0.0)


async def infer(
    gateway: InProcess, slo: Slo | None = None, inputs: Any = None, unit: str | None = None
) -> Answer:
    inputs = {"pixels": pixels()} if inputs is None else inputs
    return await gateway.infer(inputs, slo, unit=unit)


@pytest.mark.parametrize(
    ("slo", "variant", "reason"),
    [
        pytest.param(Slo(), "dense", "most accurate variant that", id="no SLO: the best"),
        pytest.param(Slo(latency_s=1.0), "dense", "most accurate", id="enough time: the best"),
        pytest.param(
            Slo(objective="latency"), "tiny", "fastest", id="objective latency: the fastest"
        ),
        pytest.param(Slo(objective="cost"), "tiny", "cheapest", id="objective cost"),
        pytest.param(
            Slo(objective="cost", min_accuracy=0.8),
            "int8",
            "cheapest",
            id="objective cost above a floor",
        ),
        pytest.param(
            Slo(objective="cost", max_accuracy_drop=0.02),
            "sparse",
            "cheapest",
            id="objective cost with a bounded drop",
        ),
        pytest.param(Slo(variant="int8"), "int8", "pinned", id="pinned"),
        pytest.param(
            Slo(variant="tiny", min_accuracy=0.9), "tiny", "pinned", id="a pin overrides the floor"
        ),
    ],
)
async def test_the_slo_determines_the_variant(slo: Slo, variant: str, reason: str) -> None:
    gateway = in_process(run_any, profiles=FOUR)
    answer = await infer(gateway, slo)
    assert answer.variant == variant
    assert answer.explanation["variant"] == variant
    assert str(answer.explanation["reason"]).startswith(reason)
    assert answer.explanation["accuracy"] == FOUR[variant].accuracy


@pytest.mark.parametrize(
    ("latency_s", "variant"),
    [(0.0079, "sparse"), (0.0039, "int8"), (0.0019, "tiny")],
    ids=["just too tight for dense", "tighter", "tightest"],
)
async def test_a_tighter_deadline_gets_a_faster_variant_and_the_reason(
    latency_s: float, variant: str
) -> None:
    gateway = in_process(run_any, profiles=FOUR)
    answer = await infer(gateway, Slo(latency_s=latency_s))
    assert answer.variant == variant
    assert "too slow now or unavailable: dense" in str(answer.explanation["reason"])


EQUAL = {
    "dense": profile("dense", 0.8958, {1: 0.002}, tier=0.8958),
    "activation-pruned": profile("activation-pruned", 0.8971, {1: 0.004}, tier=0.8958, drop=0.002),
    "int8": profile("int8", 0.8957, {1: 0.001}, tier=0.8958, drop=0.001),
}
"""All count as equally accurate; `activation-pruned` is measured as the most accurate."""


@pytest.mark.parametrize(
    ("slo", "variant", "slower"),
    [
        pytest.param(Slo(), "int8", "dense, activation-pruned", id="no SLO"),
        pytest.param(Slo(latency_s=1.0), "int8", "dense, activation-pruned", id="a deadline"),
        pytest.param(Slo(min_accuracy=0.8958), "dense", "activation-pruned", id="a floor"),
        pytest.param(
            Slo(min_accuracy=0.896), "activation-pruned", None, id="a floor that only one meets"
        ),
        pytest.param(Slo(max_accuracy_drop=0.0), "dense", None, id="no drop"),
    ],
)
async def test_the_quickest_of_the_equally_accurate_variants_answers(
    slo: Slo, variant: str, slower: str | None
) -> None:
    answer = await infer(in_process(run_any, profiles=EQUAL), slo)
    assert answer.variant == variant
    assert answer.explanation["accuracy"] == EQUAL[variant].accuracy
    equals = f"; counts as equally accurate, but slower now or unavailable: {slower}"
    assert answer.explanation["reason"] == "most accurate variant that qualifies" + (
        equals if slower else ""
    )


async def test_ties_do_not_change_the_arm_of_an_experiment() -> None:
    arms = tuple(Arm(name=name, target=name, weight=1) for name in ("dense", "activation-pruned"))
    experiment = Experiment(name="test", arms=arms)
    gateway = in_process(run_any, profiles=EQUAL, experiment=experiment)
    for unit in map(str, range(20)):
        answer = await infer(gateway, Slo(latency_s=5.0), unit=unit)
        assert answer.variant == answer.explanation["arm"]


async def test_the_explanation_has_all_fields() -> None:
    gateway = in_process()
    answer = await infer(gateway, Slo(latency_s=5.0))
    assert set(answer.explanation) == {
        "variant",
        "generation",
        "reason",
        "accuracy",
        "predicted_latency_ms",
        "latency_ms",
        "queue_ms",
        "compute_ms",
        "batch_size",
        "deadline_met",
    }
    assert answer.explanation["deadline_met"] is True
    assert answer.explanation["batch_size"] == 1


async def test_a_late_answer_has_a_missed_deadline(clock: ManualClock) -> None:
    async def slow(variant: str, requests: Sequence[Arrays]) -> BatchResult[Sequence[Arrays]]:
        clock.now += 0.55
        return await multiply(variant, requests)

    answer = await infer(in_process(slow), Slo(latency_s=0.5))
    assert answer.explanation["deadline_met"] is False
    assert float(answer.explanation["latency_ms"]) > 500


async def test_answers_are_not_mixed_up() -> None:
    gateway = in_process(slots=2)
    requests = [pixels(1 + number % 5, start=number * 100.0) for number in range(200)]
    results = await asyncio.gather(*(infer(gateway, inputs={"pixels": x}) for x in requests[:100]))
    results += await asyncio.gather(
        *(infer(gateway, Slo(latency_s=5.0), {"pixels": x}) for x in requests[100:])
    )
    for x, answer in zip(requests, results, strict=True):
        for name, array in answers(answer.variant, {"pixels": x}).items():
            np.testing.assert_array_equal(answer.outputs[name], array)
    assert max(int(answer.explanation["batch_size"]) for answer in results) > 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param({"image": pixels()}, "takes the inputs pixels", id="an unknown input"),
        pytest.param({}, "takes the inputs pixels", id="no input"),
        pytest.param(
            {"pixels": pixels().astype(np.float64)}, "must be FP32.*has FP64", id="another datatype"
        ),
        pytest.param({"pixels": pixels()[:, :3]}, r"shape \[-1, 4\].*\[1, 3\]", id="another shape"),
        pytest.param({"pixels": pixels()[0]}, r"shape \[-1, 4\].*\[4\]", id="no batch dimension"),
        pytest.param({"pixels": pixels(65)}, "from 1 to 64 samples.*65", id="too many samples"),
        pytest.param({"pixels": pixels(0)}, "from 1 to 64 samples.*0", id="no samples"),
    ],
)
async def test_inputs_that_do_not_fit_the_model_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await infer(in_process(), inputs=inputs)


async def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no output 'heat'; there is label, logits"):
        await in_process().infer({"pixels": pixels()}, outputs=["heat"])


@pytest.mark.parametrize(
    ("slo", "message"),
    [
        pytest.param(
            Slo(min_accuracy=0.95), r"best accuracy is 0.9000 \(dense\)", id="better than the best"
        ),
        pytest.param(
            Slo(max_accuracy_drop=0.0, min_accuracy=0.91),
            "smallest drop is 0.0000",
            id="no drop at all",
        ),
        pytest.param(
            Slo(latency_s=0.0005),
            "fastest is tiny with about 1.00 ms",
            id="faster than all",
        ),
        pytest.param(
            Slo(latency_s=0.003, min_accuracy=0.89),
            "fastest is sparse with about 4.00 ms; the best accuracy among them is 0.9000",
            id="fast and accurate at once",
        ),
        pytest.param(
            Slo(latency_s=0.001, variant="dense"), "fastest is dense", id="pinned, and too slow"
        ),
    ],
)
async def test_an_unattainable_slo_is_refused_with_what_is_attainable(
    slo: Slo, message: str
) -> None:
    with pytest.raises(SloUnattainable, match=message):
        await infer(in_process(run_any, profiles=FOUR), slo)


async def test_a_pinned_variant_must_exist() -> None:
    with pytest.raises(ModelNotFound, match="no variant 'int4'; there are dense, int8"):
        await infer(in_process(), Slo(variant="int4"))


async def test_no_request_is_accepted_while_draining() -> None:
    gateway = in_process()
    gateway.dataplane.readiness.is_draining = True
    with pytest.raises(NotReady):
        await infer(gateway)


HALVES = Experiment(
    name="halves",
    arms=(
        Arm(name="control", target="router", weight=1),
        Arm(name="treatment", target="int8", weight=1),
    ),
)


async def test_a_unit_keeps_its_arm_and_gets_the_variant_of_the_arm() -> None:
    gateway = in_process(experiment=HALVES)
    arms = set()
    for number in range(20):
        unit = f"user-{number}"
        answer, again = await infer(gateway, unit=unit), await infer(gateway, unit=unit)
        arm = answer.explanation["arm"]
        assert again.explanation["arm"] == arm
        assert answer.explanation["experiment"] == "halves"
        assert answer.variant == ("int8" if arm == "treatment" else "dense")
        arms.add(arm)
    assert arms == {"control", "treatment"}


@pytest.mark.parametrize(
    "slo",
    [
        pytest.param(Slo(variant="dense"), id="it pins a variant"),
        pytest.param(Slo(min_accuracy=0.89), id="its floor excludes an arm"),
    ],
)
async def test_a_request_is_not_part_of_the_experiment_if(slo: Slo) -> None:
    gateway = in_process(experiment=HALVES)
    for number in range(10):
        answer = await infer(gateway, slo, unit=str(number))
        assert answer.variant == "dense"
        assert "arm" not in answer.explanation


async def test_the_metrics_distinguish_the_arms() -> None:
    gateway = in_process(experiment=HALVES)
    for number in range(20):
        await infer(gateway, Slo(latency_s=5.0), unit=str(number))

    def value(name: str, variant: str, arm: str) -> float:
        labels = {"model": "shirts", "arm": arm, **({"variant": variant} if variant else {})}
        return gateway.registry.get_sample_value(f"paretoserve_{name}", labels) or 0.0

    control = value("slo_attained_total", "dense", "control")
    treatment = value("slo_attained_total", "int8", "treatment")
    assert control + treatment == 20
    assert value("request_duration_seconds_count", "dense", "control") == control
    agreement = value("chosen_agreement_sum", "", "treatment") / treatment
    assert agreement == pytest.approx(0.97)


async def test_an_experiment_must_name_variants_that_are_served() -> None:
    arms = (HALVES.arms[0], Arm(name="b", target="int4", weight=1))
    with pytest.raises(ValueError, match="int4; served here are dense, int8"):
        in_process(experiment=Experiment(name="x", arms=arms))


async def test_an_infinite_deadline_is_never_unattainable() -> None:
    assert (await infer(in_process(), Slo(latency_s=math.inf))).variant == "dense"


async def test_bytes_that_are_not_text_are_refused_before_they_share_a_batch() -> None:
    words = TensorSpec(name="words", datatype="BYTES", shape=(-1, -1))
    gateway = in_process(run_any, model=MODEL.model_copy(update={"inputs": (words,)}))
    text = np.array([["hé".encode(), b""]], object)
    assert (await infer(gateway, inputs={"words": text})).variant == "dense"
    with pytest.raises(InvalidRequest, match="'words' must be text in UTF-8"):
        await infer(gateway, inputs={"words": np.array([[b"h\xe9"]], object)})
