"""What a gateway tells of itself: its server, model, configuration, statistics and repository.

Plain dictionaries in the protocol's own field names: HTTP sends them as JSON, gRPC fills its
messages from them. Names are those of the Open Inference Protocol V2 and of Triton's extensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving.dataplane.dataplane import DataPlane
from serving.telemetry.statistics import Duration, Stages, VariantStatistics
from variants.catalog.catalog import TensorSpec

SERVER: Final = "paretoserve"

EXTENSIONS: Final = (
    "binary_tensor_data",
    "model_configuration",
    "parameters",
    "schedule_policy",
)
"""Not `model_repository`: its index is here, but models are neither loaded nor unloaded. Nor
`statistics`, though they are here: perf_analyzer takes it as leave to read versions as numbers, and
aborts at one that is called `dense`."""

Document = dict[str, Any]


class Documents:
    """The documents of one gateway; each raises `ModelNotFound` for a name that is not here."""

    def __init__(self, dataplane: DataPlane, version: str) -> None:
        self._dataplane = dataplane
        self.version = version

    def server(self) -> Document:
        """Return the metadata of the server."""
        return {"name": SERVER, "version": self.version, "extensions": list(EXTENSIONS)}

    def models(self) -> Document:
        """Return the names of the models."""
        return {"models": [self._dataplane.model.name]}

    def model(self, model: str, variant: str | None) -> Document:
        """Return the metadata of the model; its versions are the variants."""
        self._dataplane.check_name(model, variant)
        description = self._dataplane.model
        return {
            "name": description.name,
            "versions": self._variants(variant),
            "platform": SERVER,
            "inputs": [_tensor(spec) for spec in description.inputs],
            "outputs": [_tensor(spec) for spec in description.outputs],
        }

    def config(self, model: str, variant: str | None) -> Document:
        """Return the configuration of the model, in the terms of Triton's ModelConfig."""
        self._dataplane.check_name(model, variant)
        description = self._dataplane.model
        return {
            "name": description.name,
            "platform": SERVER,
            "backend": SERVER,
            "version_policy": {"all": {}},
            "max_batch_size": self._dataplane.max_batch,
            "input": [_configured(spec) for spec in description.inputs],
            "output": [_configured(spec) for spec in description.outputs],
            "instance_group": [
                {"name": name, "kind": "KIND_CPU", "count": self._dataplane.slots(name)}
                for name in self._variants(variant)
            ],
            "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
        }

    def statistics(self, model: str | None, variant: str | None) -> Document:
        """Return what was counted of the variants since the gateway started."""
        name = self._dataplane.model.name
        self._dataplane.check_name(name if model is None else model, variant)
        of = self._dataplane.statistics.by_variant
        return {"model_stats": [_statistics(name, v, of[v]) for v in self._variants(variant)]}

    def index(self, *, only_ready: bool) -> list[Document]:
        """Return the variants and whether they can answer."""
        name = self._dataplane.model.name
        found = []
        for variant in self._dataplane.profiles:
            is_ready = self._dataplane.is_variant_ready(variant)
            if is_ready or not only_ready:
                state = "READY" if is_ready else "UNAVAILABLE"
                reason = "" if is_ready else "no replica of it is alive"
                found.append({"name": name, "version": variant, "state": state, "reason": reason})
        return found

    def is_ready(self, model: str, variant: str | None) -> bool:
        """Return whether the model, or one variant of it, can answer."""
        self._dataplane.check_name(model, variant)
        if variant is None:
            return self._dataplane.is_ready
        return self._dataplane.is_variant_ready(variant)

    def _variants(self, variant: str | None) -> list[str]:
        return list(self._dataplane.profiles) if variant is None else [variant]


def _tensor(spec: TensorSpec) -> Document:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorSpec) -> Document:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    # The batch is no dimension of Triton's: max_batch_size stands for it.
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape[1:])}


def _statistics(model: str, variant: str, own: VariantStatistics) -> Document:
    nothing = Duration()
    return {
        "name": model,
        "version": variant,
        "last_inference": round(own.last_at_s * 1e3),
        "inference_count": own.samples,
        "execution_count": own.executions,
        "inference_stats": {
            "success": _duration(own.success),
            "fail": _duration(own.fail),
            "queue": _duration(own.queue),
            **_stages(own.stages),
            "cache_hit": _duration(nothing),
            "cache_miss": _duration(nothing),
        },
        "batch_stats": [
            {"batch_size": size, **_stages(stages)} for size, stages in sorted(own.by_size.items())
        ],
        "memory_usage": _memory(own),
    }


def _stages(stages: Stages) -> Document:
    return {
        "compute_input": _duration(stages.compute_input),
        "compute_infer": _duration(stages.compute_infer),
        "compute_output": _duration(stages.compute_output),
    }


def _duration(duration: Duration) -> Mapping[str, int]:
    return {"count": duration.count, "ns": round(duration.total_s * 1e9)}


def _memory(own: VariantStatistics) -> list[Document]:
    usage = [{"type": "CPU", "id": 0, "byte_size": own.resident_bytes}]
    if own.gpu_memory_bytes is not None:
        usage.append({"type": "GPU", "id": 0, "byte_size": own.gpu_memory_bytes})
    return usage
