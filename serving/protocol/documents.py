"""Metadata documents of a gateway: server, model, configuration, statistics, repository index.

They are plain dictionaries: HTTP sends them as JSON, gRPC fills its messages from them. The field
names are those of the Open Inference Protocol V2 and of Triton's extensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving.dataplane.dataplane import DataPlane
from serving.telemetry.statistics import Duration, Stages, VariantStatistics
from variants.catalog.catalog import TensorSpec
from variants.catalog.device import is_on_gpu

SERVER: Final = "paretoserve"

EXTENSIONS: Final = (
    "binary_tensor_data",
    "model_configuration",
    "parameters",
    "schedule_policy",
)
"""Extensions that the server metadata announce.

`model_repository` is announced too if variants can be loaded and unloaded. `statistics` is
supported but missing: with that name, perf_analyzer reads versions as numbers and aborts at
`dense`."""

MODEL_REPOSITORY: Final = "model_repository"

Document = dict[str, Any]


class Documents:
    """The metadata documents of one gateway. Methods raise `ModelNotFound` for unknown names."""

    def __init__(self, dataplane: DataPlane, version: str, *, has_repository: bool = False) -> None:
        """`has_repository` means that variants can be loaded and unloaded."""
        self._dataplane = dataplane
        self.version = version
        self._extensions = sorted([*EXTENSIONS, *([MODEL_REPOSITORY] if has_repository else [])])

    def server(self) -> Document:
        """Return the metadata of the server."""
        return {"name": SERVER, "version": self.version, "extensions": self._extensions}

    def models(self) -> Document:
        """Return the names of the models."""
        return {"models": [self._dataplane.model.name]}

    def model(self, model: str, variant: str | None) -> Document:
        """Return the metadata of the model. Its versions are the variants."""
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
        """Return the configuration of the model with the field names of Triton's ModelConfig.

        Its `parameters` name the provider that executes each variant that has hosts.
        """
        self._dataplane.check_name(model, variant)
        description = self._dataplane.model
        providers = {
            name: self._dataplane.statistics(name).provider for name in self._variants(variant)
        }
        return {
            "name": description.name,
            "platform": SERVER,
            "backend": SERVER,
            "version_policy": {"all": {}},
            "max_batch_size": self._dataplane.max_batch,
            "input": [_tensor_config(spec) for spec in description.inputs],
            "output": [_tensor_config(spec) for spec in description.outputs],
            "instance_group": [
                {
                    "name": name,
                    "kind": "KIND_GPU" if is_on_gpu(provider) else "KIND_CPU",
                    "count": self._dataplane.slots(name),
                }
                for name, provider in providers.items()
            ],
            "parameters": {
                f"provider.{name}": {"string_value": provider}
                for name, provider in providers.items()
                if provider is not None
            },
            "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
        }

    def statistics(self, model: str | None, variant: str | None) -> Document:
        """Return the statistics of the variants since their generations are served here."""
        name = self._dataplane.model.name
        self._dataplane.check_name(name if model is None else model, variant)
        return {
            "model_stats": [
                _statistics(name, each, self._dataplane.statistics(each))
                for each in self._variants(variant)
            ]
        }

    def index(self, *, only_ready: bool, unloaded: Mapping[str, str] = {}) -> list[Document]:
        """Return the variants and whether each is ready.

        `unloaded` are the variants that can be loaded, with the reason why each is not served.
        """
        name = self._dataplane.model.name
        entries = []
        for variant in self._dataplane.profiles:
            is_ready = self._dataplane.readiness.is_variant_ready(variant)
            if is_ready or not only_ready:
                state = "READY" if is_ready else "UNAVAILABLE"
                reason = self._dataplane.readiness.unready_reason(variant)
                entries.append({"name": name, "version": variant, "state": state, "reason": reason})
        entries += [
            {"name": name, "version": variant, "state": "UNAVAILABLE", "reason": reason}
            for variant, reason in unloaded.items()
            if variant not in self._dataplane.profiles and not only_ready
        ]
        return entries

    def is_ready(self, model: str, variant: str | None) -> bool:
        """Return whether the model, or one of its variants, is ready."""
        self._dataplane.check_name(model, variant)
        if variant is None:
            return self._dataplane.readiness.is_ready
        return self._dataplane.readiness.is_variant_ready(variant)

    def readiness(self, model: str, variant: str | None) -> Document:
        """Return whether the model, or one of its variants, is ready, and if not, why."""
        is_ready = self.is_ready(model, variant)
        return {"name": model, "ready": is_ready, **self._reason(is_ready, variant)}

    def server_readiness(self) -> Document:
        """Return whether the server is ready, and if not, why."""
        is_ready = self._dataplane.readiness.is_ready
        return {"ready": is_ready, "live": True, **self._reason(is_ready, None)}

    def _reason(self, is_ready: bool, variant: str | None) -> Document:
        return {} if is_ready else {"reason": self._dataplane.readiness.unready_reason(variant)}

    def _variants(self, variant: str | None) -> list[str]:
        return list(self._dataplane.profiles) if variant is None else [variant]


def _tensor(spec: TensorSpec) -> Document:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _tensor_config(spec: TensorSpec) -> Document:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    # Triton's dims leave out the batch dimension, which max_batch_size describes.
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape[1:])}


def _statistics(model: str, variant: str, counts: VariantStatistics) -> Document:
    zero = Duration()
    return {
        "name": model,
        "version": variant,
        "last_inference": round(counts.last_at_s * 1e3),
        "inference_count": counts.samples,
        "execution_count": counts.executions,
        "inference_stats": {
            "success": _duration(counts.success),
            "fail": _duration(counts.fail),
            "queue": _duration(counts.queue),
            **_stages(counts.stages),
            "cache_hit": _duration(zero),
            "cache_miss": _duration(zero),
        },
        "batch_stats": [
            {"batch_size": size, **_stages(stages)}
            for size, stages in sorted(counts.by_size.items())
        ],
        "memory_usage": _memory(counts),
    }


def _stages(stages: Stages) -> Document:
    return {
        "compute_input": _duration(stages.compute_input),
        "compute_infer": _duration(stages.compute_infer),
        "compute_output": _duration(stages.compute_output),
    }


def _duration(duration: Duration) -> Mapping[str, int]:
    return {"count": duration.count, "ns": round(duration.total_s * 1e9)}


def _memory(counts: VariantStatistics) -> list[Document]:
    usage = [{"type": "CPU", "id": 0, "byte_size": counts.resident_bytes}]
    if counts.gpu_memory_bytes is not None:
        usage.append({"type": "GPU", "id": 0, "byte_size": counts.gpu_memory_bytes})
    return usage
