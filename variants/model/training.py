"""Trains a classifier: the demo model from nothing, and a compressed one back to its accuracy.

AdamW (Loshchilov and Hutter 2019) with the one-cycle learning rate (Smith and Topin 2018).
Weights that a mask holds at zero are zero after every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

_LEAST_STEPS = 6
"""The one-cycle schedule needs a step to rise in: a shorter training goes but part of the way."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


class Schedule(Record):
    """How to train: everything that decides the result, the seed included."""

    epochs: Annotated[int, Field(ge=1)] = 2
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The peak; reached after a fifth of the steps, from there down to nearly 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network to learn from, and how much the answers of it count against the labels."""

    network: nn.Module
    share: float
    """Of the loss, 0 to 1."""
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
    """Train the network in place on cross-entropy; afterwards it is in evaluation mode.

    A `teacher` adds its share of T² KL(teacher || network), both softened by the temperature T.

    `steps` are those of the schedule's steps to take, if not all: samples and learning rates are
    theirs; what the optimizer remembers of steps before is not.

    Raises `ValueError` if every parameter is frozen.

    `masks` are by parameter name, BOOL of the parameter's shape: where False, the weight stays
    zero. On processors that multiply BF16, products are in BF16; weights and updates stay FP32.
    """
    samples, labels = tensors(split.samples), torch.from_numpy(split.labels)
    parameters = dict(network.named_parameters())
    held = [(parameters[name], mask) for name, mask in (masks or {}).items()]
    every = range(count_steps(len(split), schedule))
    taken = every if steps is None else every[steps.start : steps.stop]
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError("nothing can be trained: every parameter has requires_grad=False")
    optimizer = torch.optim.AdamW(
        parameters.values(), schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=max(len(every), _LEAST_STEPS), pct_start=0.2
    )
    is_bf16_fast = not _BF16_FLAGS.isdisjoint(hardware(1).flags)
    task = progress.add_task(label, total=len(taken))
    network.train()
    if teacher is not None:
        teacher.network.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        optimizer.zero_grad()
        batches = _batches(len(split), schedule)
        for step, batch in zip(range(taken.stop), batches, strict=False):
            if step < taken.start:
                optimizer.step()  # there is no gradient yet, so nothing moves
                rate.step()
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16_fast):
                given = tuple(tensor[batch] for tensor in samples)
                answers = scores(network, given)
                loss = F.cross_entropy(answers, labels[batch])
                if teacher is not None:
                    distance = _distance(answers, teacher, given).to(loss.dtype)
                    loss = torch.lerp(loss, distance, teacher.share)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            optimizer.step()
            rate.step()
            with torch.no_grad():
                for parameter, mask in held:
                    parameter.mul_(mask)
            progress.advance(task)
    network.eval()


def count_steps(samples: int, schedule: Schedule) -> int:
    """Return how many steps the schedule takes over so many samples."""
    return -(-samples // schedule.batch_size) * schedule.epochs


def _batches(samples: int, schedule: Schedule) -> Iterator[Tensor]:
    """Yield the numbers of the samples of each step, INT64 `[batch]`."""
    shuffle = torch.Generator().manual_seed(schedule.seed)
    for _ in range(schedule.epochs):
        order = torch.randperm(samples, generator=shuffle)
        batches = list(torch.split(order, schedule.batch_size))
        if len(batches[-1]) == 1 and samples > 1:
            # BatchNorm cannot learn from one sample: another batch's joins it.
            batches[-1] = order[-2:]
        yield from batches


def _distance(answers: Tensor, teacher: Teacher, given: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        wanted = scores(teacher.network, given)
    softened, softly_wanted = (
        F.log_softmax(some.float() / teacher.temperature, dim=1) for some in (answers, wanted)
    )
    distance = F.kl_div(softened, softly_wanted, reduction="batchmean", log_target=True)
    return distance * teacher.temperature**2


def predict(network: nn.Module, samples: Samples) -> Tensor:
    """Return the class of the largest score for each of the samples, INT64 `[n]`."""
    return all_scores(network, samples).argmax(1)


def accuracy(network: nn.Module, split: Split) -> float:
    """Return the share of samples whose class the network finds, 0 to 1."""
    right = predict(network, split.samples) == torch.from_numpy(split.labels)
    return float(right.double().mean())
