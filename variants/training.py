"""Trains a classifier: the demo model from nothing, and a compressed one back to its accuracy.

AdamW (Loshchilov and Hutter 2019) with the one-cycle learning rate (Smith and Topin 2018).
Weights that a mask holds at zero are zero after every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from rich.progress import Progress
from torch import Tensor, nn

from variants.dataset import Samples, Split
from variants.hardware import hardware
from variants.record import Record

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_SCORED_AT_ONCE = 2048


class Schedule(Record):
    """How to train: everything that decides the result, the seed included."""

    epochs: Annotated[int, Field(ge=1)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The peak; reached after a fifth of the steps, from there down to nearly 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    seed: int = 0


def fit(
    network: nn.Module,
    split: Split,
    schedule: Schedule,
    progress: Progress,
    *,
    masks: Mapping[str, Tensor] | None = None,
    label: str = "training",
) -> None:
    """Train the network in place on cross-entropy; afterwards it is in evaluation mode.

    `masks` are by parameter name, BOOL of the parameter's shape: where False, the weight stays
    zero. On processors that multiply BF16, products are in BF16; weights and updates stay FP32.
    """
    samples, labels = torch.from_numpy(split.samples), torch.from_numpy(split.labels)
    parameters = dict(network.named_parameters())
    held = [(parameters[name], mask) for name, mask in (masks or {}).items()]
    shuffle = torch.Generator().manual_seed(schedule.seed)
    steps = -(-len(split) // schedule.batch_size)
    optimizer = torch.optim.AdamW(
        parameters.values(), schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=steps * schedule.epochs, pct_start=0.2
    )
    is_bf16_fast = not _BF16_FLAGS.isdisjoint(hardware(1).flags)
    task = progress.add_task(label, total=steps * schedule.epochs)
    network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        for _ in range(schedule.epochs):
            order = torch.randperm(len(split), generator=shuffle)
            for batch in torch.split(order, schedule.batch_size):
                with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16_fast):
                    loss = F.cross_entropy(network(samples[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
                optimizer.step()
                rate.step()
                with torch.no_grad():
                    for parameter, mask in held:
                        parameter.mul_(mask)
                progress.advance(task)
    network.eval()


def predict(network: nn.Module, samples: Samples) -> Tensor:
    """Return the class of the largest score for each of the samples, INT64 `[n]`."""
    network.eval()
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(samples), _SCORED_AT_ONCE)
        return torch.cat([network(part).argmax(1) for part in parts])


def accuracy(network: nn.Module, split: Split) -> float:
    """Return the share of samples whose class the network finds, 0 to 1."""
    right = predict(network, split.samples) == torch.from_numpy(split.labels)
    return float(right.double().mean())
