"""Training of classifiers, from random weights or after compression.

AdamW (Loshchilov and Hutter 2019) with the one-cycle learning rate (Smith and Topin 2018). Masked
weights are set to zero after every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from rich.progress import Progress
from torch import Tensor, nn

from variants.catalog.hardware import hardware
from variants.catalog.record import Record
from variants.model.dataset import Samples, Split
from variants.model.forward import all_scores, scores, tensors
from variants.model.gradients import gradient_errors

_MIN_STEPS = 6
"""Smallest number of steps of a one-cycle schedule. Shorter trainings run only a part of it."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""Processor flags of instructions that multiply BF16."""


class Schedule(Record):
    """Hyperparameters of a training. They determine its result, together with the data."""

    epochs: Annotated[int, Field(ge=1)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate, reached after a fifth of the steps, then decaying to nearly 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher network for distillation, and the weight of its outputs in the loss."""

    network: nn.Module
    share: float
    """Weight of the distillation loss, 0 to 1. The labels have the rest."""
    temperature: float


def fit(
    network: nn.Module,
    split: Split,
    schedule: Schedule,
    progress: Progress,
    *,
    masks: Mapping[str, Tensor] | None = None,
    teacher: Teacher | None = None,
    steps: range | None = None,
    label: str = "training",
) -> None:
    """Train the network in place on cross-entropy, and set it to evaluation mode.

    A `teacher` adds its share of T² KL(teacher || network), both softened by the temperature T.

    `steps` selects a part of the steps of the schedule. Samples and learning rates are those of the
    selected steps; the optimizer starts without state from earlier steps.

    `masks` are by parameter name, BOOL of the shape of the parameter. Weights stay zero where the
    mask is False. On processors that multiply BF16, products are in BF16; weights and updates are
    FP32.

    Raises `ValueError` if every parameter is frozen, or if the network cannot compute gradients.
    """
    samples, labels = tensors(split.samples), torch.from_numpy(split.labels)
    parameters = dict(network.named_parameters())
    masked = [(parameters[name], mask) for name, mask in (masks or {}).items()]
    all_steps = range(count_steps(len(split), schedule))
    selected = all_steps if steps is None else all_steps[steps.start : steps.stop]
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError("the network cannot be trained: every parameter has requires_grad=False")
    optimizer = torch.optim.AdamW(
        parameters.values(), schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        schedule.learning_rate,
        total_steps=max(len(all_steps), _MIN_STEPS),
        pct_start=0.2,
    )
    is_bf16_fast = not _BF16_FLAGS.isdisjoint(hardware(1).flags)
    task = progress.add_task(label, total=len(selected))
    network.train()
    if teacher is not None:
        teacher.network.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        optimizer.zero_grad()
        batches = _batches(len(split), schedule)
        for step, batch in zip(range(selected.stop), batches, strict=False):
            if step < selected.start:
                optimizer.step()  # changes nothing without gradients
                scheduler.step()
                continue
            inputs = tuple(tensor[batch] for tensor in samples)
            compute = partial(_compute_gradients, network, inputs, labels[batch], teacher)
            is_bf16_fast = _try_in_bf16(compute) if is_bf16_fast else compute(in_bf16=False)
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                for parameter, mask in masked:
                    parameter.mul_(mask)
            progress.advance(task)
    network.eval()


def count_steps(samples: int, schedule: Schedule) -> int:
    """Return the number of optimizer steps of the schedule for this number of samples."""
    return -(-samples // schedule.batch_size) * schedule.epochs


def _compute_gradients(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    labels: Tensor,
    teacher: Teacher | None,
    *,
    in_bf16: bool,
) -> bool:
    """Set the gradients of the loss of a batch; return `in_bf16`.

    Raises `ValueError` with the reason if that is not possible.
    """
    network.zero_grad()
    with gradient_errors("the network cannot be trained"):
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            logits = scores(network, inputs)
            loss = F.cross_entropy(logits, labels)
            if teacher is not None:
                distillation = _distillation_loss(logits, teacher, inputs).to(loss.dtype)
                loss = torch.lerp(loss, distillation, teacher.share)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    return in_bf16


def _try_in_bf16(compute: Callable[..., bool]) -> bool:
    """Set the gradients with products in BF16, or in FP32; return whether BF16 was possible.

    Autocasting leaves the weights of some operators in FP32, such as those of `nn.Bilinear`, which
    then get inputs of another type.
    """
    try:
        return compute(in_bf16=True)
    except ValueError:
        return compute(in_bf16=False)


def _batches(samples: int, schedule: Schedule) -> Iterator[Tensor]:
    """Yield the sample indices of each step, INT64 `[batch]`."""
    shuffle = torch.Generator().manual_seed(schedule.seed)
    for _ in range(schedule.epochs):
        order = torch.randperm(samples, generator=shuffle)
        batches = list(torch.split(order, schedule.batch_size))
        if len(batches[-1]) == 1 and samples > 1:
            # BatchNorm needs two samples, so one of another batch is added.
            batches[-1] = order[-2:]
        yield from batches


def _distillation_loss(logits: Tensor, teacher: Teacher, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        targets = scores(teacher.network, inputs)
    log_probabilities, log_targets = (
        F.log_softmax(one.float() / teacher.temperature, dim=1) for one in (logits, targets)
    )
    divergence = F.kl_div(log_probabilities, log_targets, reduction="batchmean", log_target=True)
    return divergence * teacher.temperature**2


def predict(network: nn.Module, samples: Samples) -> Tensor:
    """Return the predicted class of each sample, INT64 `[n]`."""
    return all_scores(network, samples).argmax(1)


def accuracy(network: nn.Module, split: Split) -> float:
    """Return the share of correctly classified samples, 0 to 1."""
    is_correct = predict(network, split.samples) == torch.from_numpy(split.labels)
    return float(is_correct.double().mean())
