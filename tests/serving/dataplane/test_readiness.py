"""When the service and its variants are ready."""

from __future__ import annotations

import pytest

from serving.errors import NotReady
from tests.serving.builders import in_process, pixels


async def test_ready_once_every_variant_has_had_a_replica_and_from_then_on() -> None:
    gateway = in_process(slots=0)
    with pytest.raises(NotReady):
        await gateway.infer({"pixels": pixels()}, None)
    gateway.scheduler.set_slots("dense@1", 1)
    assert not gateway.dataplane.readiness.is_ready
    gateway.scheduler.set_slots("int8@1", 1)
    assert gateway.dataplane.readiness.is_ready
    gateway.scheduler.set_slots("int8@1", 0)
    assert gateway.dataplane.readiness.is_ready
    assert not gateway.dataplane.readiness.is_variant_ready("int8")
    assert (await gateway.infer({"pixels": pixels()}, None)).variant == "dense"
