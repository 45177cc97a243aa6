"""Execution providers of onnxruntime: which a device needs, and whether a session uses it.

onnxruntime falls back to the CPU when a provider cannot be loaded, and also when it fails in a
call. Both are prevented here: a session on a GPU computes there, or there is no session.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias

import onnxruntime

from variants.catalog.device import PROVIDERS, Device, gpu_names, is_gpu

ProviderOptions: TypeAlias = tuple[str, dict[str, str]]

RECORD_OPERATORS: Final = "session.record_ep_graph_assignment_info"
"""onnxruntime's option that `operators_by_provider` needs, "0" or "1"."""

_INSTALL: Final = (
    "install a driver for CUDA 13, the packages of docs/techniques.md#gpus, and for TensorRT "
    "`tensorrt-cu13`; or use the device `cpu`"
)


def provider_options(device: Device, engines: Path) -> list[ProviderOptions]:
    """Return the providers of a device with their options, the preferred one first.

    The providers after the first one compute the operators that it does not support. `engines` is
    the folder of the engines that TensorRT builds. It must be of this model only: the name of an
    engine does not depend on the weights.

    TF32 is off, so that FP32 means the same on every device. TensorRT uses FP16 where that is
    faster, which the sparse tensor cores require, and looks for 2:4 weights itself.
    """
    cpu: ProviderOptions = (PROVIDERS["cpu"], {})
    cuda: ProviderOptions = (PROVIDERS["cuda"], {"use_tf32": "0"})
    folder = str(engines)
    tensorrt: ProviderOptions = (
        PROVIDERS["tensorrt"],
        {
            "trt_fp16_enable": "True",
            "trt_sparsity_enable": "True",
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        },
    )
    match device:
        case "cpu":
            return [cpu]
        case "cuda":
            return [cuda, cpu]
        case "tensorrt":
            return [tensorrt, cuda, cpu]


def open_session(
    model: Path | bytes, options: onnxruntime.SessionOptions, device: Device, engines: Path
) -> onnxruntime.InferenceSession:
    """Return a session that runs on the device.

    Raises `ValueError` with what is missing if onnxruntime cannot use the device.
    """
    source = model if isinstance(model, bytes) else str(model)
    providers = provider_options(device, engines)
    if not is_gpu(device):
        return onnxruntime.InferenceSession(source, options, providers=providers)
    wanted = PROVIDERS[device]
    if wanted not in (available := onnxruntime.get_available_providers()):
        raise ValueError(
            f"the device `{device}` needs {wanted}, which the installed onnxruntime does not have; "
            f"it has {', '.join(available)}; install onnxruntime-gpu instead of onnxruntime"
        )
    missing = _load_libraries(device)
    options.add_session_config_entry(RECORD_OPERATORS, "1")
    if device == "tensorrt":
        engines.mkdir(parents=True, exist_ok=True)
    try:
        session = onnxruntime.InferenceSession(
            source, options, providers=providers, enable_fallback=0
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(_unusable(device, available, f"{missing} {error}")) from error
    if wanted not in (used := session.get_providers()):
        reason = f"{missing} The session would use {', '.join(used)} only."
        raise ValueError(_unusable(device, available, reason))
    if operators_by_provider(session).keys() == {PROVIDERS["cpu"]}:
        raise ValueError(
            f"the device `{device}` supports no operator of this graph, so that all would run on "
            "the CPU; use the device `cpu`"
        )
    return session


def operators_by_provider(session: onnxruntime.InferenceSession) -> dict[str, tuple[str, ...]]:
    """Return the operators, sorted, that each provider runs, for a session that records them."""
    operators: dict[str, set[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        names = {node.op_type for node in part.get_nodes()}
        operators.setdefault(part.ep_name, set()).update(names)
    return {name: tuple(sorted(names)) for name, names in operators.items()}


def elsewhere(session: onnxruntime.InferenceSession, device: Device) -> dict[str, tuple[str, ...]]:
    """Return the operators that run elsewhere than on the provider of a GPU, by provider."""
    operators = operators_by_provider(session) if is_gpu(device) else {}
    return {name: each for name, each in operators.items() if name != PROVIDERS[device]}


def _load_libraries(device: Device) -> str:
    """Load the libraries that pip installed, where the loader does not look; return what failed."""
    printed = io.StringIO()
    with redirect_stdout(printed):  # onnxruntime prints what it cannot load
        onnxruntime.preload_dlls()
    if device == "tensorrt":
        with suppress(ImportError):
            import_module("tensorrt")
    failures = (line.partition("Failed to load ")[2] for line in printed.getvalue().splitlines())
    names = dict.fromkeys(failure.partition(":")[0] for failure in failures if failure)
    return f"These libraries cannot be loaded: {', '.join(names)}." if names else ""


def _unusable(device: Device, available: list[str], reason: Any) -> str:
    gpus = ", ".join(gpu_names()) or "none"
    return (
        f"the device `{device}` cannot be used: {' '.join(str(reason).split())} GPUs of this "
        f"machine: {gpus}. Providers of onnxruntime {onnxruntime.__version__}: "
        f"{', '.join(available)}. To use it, {_INSTALL}"
    )
