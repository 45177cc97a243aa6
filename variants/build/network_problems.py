"""Problems of a network that a user provides, as sentences that say what would be right.

Each function returns a list of sentences, which is empty if there is no problem. None calls the
network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

_MAX_NAMES: Final = 3
"""Largest number of names in a sentence."""
_QUANTIZED: Final = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic")
_WRAPPERS: Final[Sequence[tuple[Callable[[nn.Module], bool], str, str]]] = (
    (
        lambda m: isinstance(m, nn.DataParallel | nn.parallel.DistributedDataParallel),
        "a wrapper for several GPUs",
        "return its .module",
    ),
    (
        lambda m: isinstance(m, torch.jit.ScriptModule),
        "a scripted module",
        "return the module it was made from",
    ),
    (
        lambda m: "_orig_mod" in dict(m.named_children()),
        "a network compiled by torch.compile",
        "return the network itself",
    ),
)
"""What wraps networks: how to recognize it, its description, and what to return instead."""
_TYPES: Final = {
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float64: "FP64",
    torch.float32: "FP32",
}


def network_problems(network: nn.Module) -> list[str]:
    """Check that the network is plain: in FP32 on the CPU, and with weights that can be changed."""
    problems = _wrapper_problems(network) or _tensor_problems(network)
    return problems or _computed_problems(network) or _copy_problems(network)


def name_problems(network: nn.Module, inputs: Iterable[str], outputs: Iterable[str]) -> list[str]:
    """Check that no input is nameless, or has the name of a parameter, a buffer or an output."""
    taken = {name: "a parameter or buffer of the network" for name, _ in _tensors(network)}
    taken |= dict.fromkeys(outputs, "an output: outputs are called logits, output_1, ...")
    return [
        f"input {name!r} has the name of {taken[name]}; give it another one in datasets()"
        if name in taken
        else f"input {name!r} needs a name"
        for name in inputs
        if name in taken or not name.strip()
    ]


def _wrapper_problems(network: nn.Module) -> list[str]:
    modules = dict(network.named_modules())
    for is_wrapper, what, instead in _WRAPPERS:
        if found := [name for name, module in modules.items() if is_wrapper(module)]:
            return [f"network() has {what}{_where(found)}: {instead}"]
    quantized = [n for n, m in modules.items() if type(m).__module__.startswith(_QUANTIZED)]
    if outer := [n for n in quantized if n.rpartition(".")[0] not in quantized]:
        return [
            f"network() has quantized layers{_where(outer)}: return the network in FP32, which the "
            f"technique int8 quantizes"
        ]
    return []


def _tensor_problems(network: nn.Module) -> list[str]:
    tensors = dict(_tensors(network))
    if lazy := [name for name, tensor in tensors.items() if is_lazy(tensor)]:
        return [
            f"network() has parameters without a shape ({_some(lazy)}): give its layers the number "
            f"of inputs, as in nn.Linear(784, 10) instead of nn.LazyLinear(10)"
        ]
    if elsewhere := [name for name, tensor in tensors.items() if tensor.device.type != "cpu"]:
        device = tensors[elsewhere[0]].device
        remedy = (
            "build the network outside of `with torch.device('meta')`"
            if device.type == "meta"
            else "return network.cpu(); the device to serve on is a setting"
        )
        return [f"network() has tensors on the device {device} ({_some(elsewhere)}): {remedy}"]
    if odd := [name for name, tensor in tensors.items() if not _is_plain(tensor)]:
        kind = type(tensors[odd[0]].data).__name__
        return [
            f"network() has tensors of the kind {kind}, or quantized or sparse ones "
            f"({_some(odd)}): return the network with plain FP32 tensors"
        ]
    parameters = dict(network.named_parameters())
    if numbers := [name for name, p in parameters.items() if p.dtype != torch.float32]:
        kinds = sorted({_type(parameters[name].dtype) for name in numbers})
        remedy = (
            "call .float() on the network in network(); the weights file may stay as it is"
            if all(parameters[name].is_floating_point() for name in numbers)
            else "parameters must be FP32; keep integers and complex numbers in buffers"
        )
        return [f"weights are {' and '.join(kinds)} ({_some(numbers)}): {remedy}"]
    return []


def _computed_problems(network: nn.Module) -> list[str]:
    if computed := [name for name, module in network.named_modules() if _computes_weights(module)]:
        return [
            f"network() has layers that compute their weights from others: {', '.join(computed)}; "
            f"call remove_parametrizations (or remove_weight_norm) in network(), and save the "
            f"plain weights"
        ]
    return []


def _copy_problems(network: nn.Module) -> list[str]:
    state = network.state_dict()
    if extra := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        return [
            f"the state_dict() of the network has values that are no tensors ({_some(extra)}), "
            f"which a safetensors file cannot hold: leave out get_extra_state()"
        ]
    try:
        copy.deepcopy(network)
    except Exception as error:  # code of the user may raise any exception
        return [
            f"the network cannot be copied ({error}), and techniques change copies of it; its "
            f"modules may hold parameters, buffers and plain values, but no computed tensors"
        ]
    return []


def _computes_weights(module: nn.Module) -> bool:
    """Return whether torch computes a weight in each call, as with old or new weight_norm."""
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(
        type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks
    )


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _is_plain(tensor: Tensor) -> bool:
    is_strided = tensor.layout == torch.strided and not tensor.is_quantized
    return is_strided and type(tensor.data) is Tensor


def _type(dtype: torch.dtype) -> str:
    return _TYPES.get(dtype, str(dtype).removeprefix("torch."))


def _where(names: list[str]) -> str:
    return f" ({_some(names)})" if any(names) else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
