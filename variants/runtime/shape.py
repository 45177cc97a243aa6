"""Replacement of tensors by tensors of other shapes, with matching module attributes.

Used by structured pruning and when a stored variant is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def replace_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers, by their names in the `state_dict` of the network.

    If a shape changes, `in_features`, `out_channels`, `groups`, `normalized_shape` and similar
    attributes are updated. Parameters of user-defined modules may take any shape; such modules must
    handle it themselves. Raises `ValueError` with the name of a module that cannot be resized or
    whose tensors have inconsistent shapes.
    """
    resized = {}
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        present = getattr(module, attribute)
        if present.shape != tensor.shape:
            resized[owner] = module
        new = tensor.detach().clone()
        is_parameter = isinstance(present, nn.Parameter)
        setattr(
            module, attribute, nn.Parameter(new, present.requires_grad) if is_parameter else new
        )
    for name, module in resized.items():
        _update_attributes(name, module)


def is_depthwise(convolution: nn.Module) -> bool:
    """Return whether the convolution is depthwise: output channel i reads input channel i only."""
    return (
        isinstance(convolution, CONVOLUTIONS)
        and 1 < convolution.groups == convolution.in_channels == convolution.out_channels
    )


def _update_attributes(name: str, module: nn.Module) -> None:
    """Set the size attributes of a module by the shapes of its tensors."""
    width = None
    match module:
        case nn.Linear():
            width, module.in_features = module.weight.shape
            module.out_features = width
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            width = len(module.weight)
            if is_depthwise(module):
                module.groups = module.in_channels = width
            else:
                module.in_channels = module.weight.shape[1] * module.groups
            module.out_channels = width
        case _BatchNorm():
            width = len(next(t for t in module.state_dict().values() if t.ndim))
            module.num_features = width
        case nn.LayerNorm():
            width = len(module.weight)
            module.normalized_shape = tuple(module.weight.shape)
        case nn.Embedding():
            module.num_embeddings, module.embedding_dim = module.weight.shape
        case nn.PReLU():
            module.num_parameters = len(module.weight)
        case _ if type(module).__module__.startswith("torch.nn."):
            raise ValueError(f"{name!r}, a {type(module).__name__}, cannot be resized")
    for key, tensor in module.named_parameters(recurse=False):
        if width is not None and len(tensor) != width:
            raise ValueError(f"{name}.{key} has {len(tensor)} rows, its layer {width} outputs")
