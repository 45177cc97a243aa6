"""Comparison of a variant's answers with those of a torch network, as served in batches.

    exact    equal to the reference, up to the rounding of its datatype
    rounded  as near to the reference as networks whose weights and activations have random errors
             of the size that the technique's rounding makes

The second bound holds for any correct rounding, because the error of rounding to a grid is at most
half a step, and it does not depend on the code under test. A weight in the wrong place exceeds it:
`tests/zoo/test_comparison.py` shows that for every weight of several networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from variants.model.dataset import Axes, Samples, count, rows
from variants.model.forward import outputs, tensors

Answers: TypeAlias = list[NDArray[Any]]
"""The outputs of one batch in order."""
Serve: TypeAlias = Callable[[Samples], Answers]

TOLERANCE: Final = 1e-4
"""Largest error of FP32, relative to the spread of an output over the samples."""
_EPSILON: Final = 2e-6
"""Largest error of FP32, relative to the largest number of an output."""
_COARSER: Final = {torch.float16: 30.0, torch.bfloat16: 240.0}
"""Factor of both for networks that compute in these datatypes."""
_DRAWS: Final = 6
"""Networks with random errors whose errors are averaged."""
_FACTOR: Final = 3.0
"""Largest error of a variant in multiples of that average. An average over few samples varies, and
errors of a grid that are all rounded in one direction are larger than random ones."""
_FACTOR_ALONE: Final = 2.0
"""The error of one sample may be this many times the average over all."""
_ATEN: Final = torch.ops.aten
_PRODUCTS: Final = {
    _ATEN.addmm.default: 1, _ATEN.mm.default: 0, _ATEN.linear.default: 0,
    _ATEN.convolution.default: 0,
}  # fmt: skip
"""Products with a weight, and the position of the argument that is an activation."""


class Wrong(Exception):
    """Raised if a variant does not answer as it should; the message says how."""


def torch_answers(network: nn.Module, samples: Samples) -> Answers:
    """Return the outputs of the network."""
    with torch.inference_mode():
        return [_array(output) for output in outputs(network.eval(), tensors(samples))]


def require_equal(
    serve: Serve, reference: nn.Module, samples: Samples, axes: Axes, *, factor: float = 1.0
) -> None:
    """Raise `Wrong` unless the variant answers as the reference at all batch sizes and lengths.

    `factor` multiplies the tolerance.
    """
    for sized in _of_all_lengths(samples, axes, reference):
        expected_of_all = torch_answers(reference, sized)
        for batch in _batches(sized):
            expected, answers = torch_answers(reference, batch), serve(batch)
            _require_shapes(answers, expected, batch)
            for number, (answer, right) in enumerate(zip(answers, expected, strict=True)):
                limit = factor * _rounding(reference, expected_of_all[number])
                error = _largest_difference(answer, right)
                if not error <= limit:
                    raise Wrong(
                        f"output {number} differs by {error:.2g} from torch, more than "
                        f"{limit:.2g}, for {_sizes(batch)}"
                    )


@dataclass(frozen=True)
class Errors:
    """Sizes of random errors."""

    weights: Callable[[Tensor], Tensor]
    """Returns the largest error of each element of a weight."""
    activations: float = 0.0
    """Largest error of an activation, relative to the range of all activations of a layer."""


def require_near(
    serve: Serve, reference: nn.Module, samples: Samples, errors: Errors, *, jumps: bool
) -> None:
    """Raise `Wrong` unless the variant is as near to the reference as rounding allows.

    `jumps` compares the medians over the samples, because a rounded router sends some elsewhere.
    """
    largest = _random_errors(reference, samples, errors, jumps=jumps)
    batches = [samples, *(rows(samples, slice(n, n + 1)) for n in range(8))]
    for batch in batches:
        exact, answers = torch_answers(reference, batch), serve(batch)
        _require_shapes(answers, exact, batch)
        for number, limit in largest.items():
            error = _size(answers[number] - exact[number].astype(np.float64), jumps=jumps)
            limit *= 1.0 if batch is samples else _FACTOR_ALONE
            if not error <= limit:
                raise Wrong(
                    f"output {number} has an error of {error:.2g}, more than {limit:.2g}, which "
                    f"rounding explains, for {_sizes(batch)}"
                )


def _random_errors(
    network: nn.Module, samples: Samples, errors: Errors, *, jumps: bool
) -> dict[int, float]:
    """Return the largest error that rounding explains, by the number of each output."""
    exact = torch_answers(network, samples)
    generator = torch.Generator().manual_seed(0)
    squares: dict[int, list[float]] = {
        n: [] for n, answer in enumerate(exact) if answer.dtype.kind == "f"
    }
    for _ in range(_DRAWS):
        answers = _answers_with_errors(network, samples, errors, generator)
        for number, sizes in squares.items():
            error = answers[number].astype(np.float64) - exact[number]
            sizes.append(_size(error, jumps=jumps) ** 2)
    return {
        n: _FACTOR * float(np.sqrt(np.mean(sizes))) + _rounding(network, exact[n])
        for n, sizes in squares.items()
    }


def _answers_with_errors(
    network: nn.Module, samples: Samples, errors: Errors, generator: torch.Generator
) -> Answers:
    """Run the network with random errors; its weights are restored."""
    weights = [p for p in network.parameters() if p.is_floating_point() and p.numel()]
    before = [weight.detach().clone() for weight in weights]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of an encoder
    try:
        with torch.no_grad():
            for weight, original in zip(weights, before, strict=True):
                noise = torch.rand(weight.shape, generator=generator) * 2 - 1
                weight.copy_(original + errors.weights(original) * noise.to(weight.dtype))
            noisy = _NoisyProducts(errors.activations, generator)
            with noisy if errors.activations else nullcontext():
                return [_array(output) for output in outputs(network.eval(), tensors(samples))]
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        with torch.no_grad():
            for weight, original in zip(weights, before, strict=True):
                weight.copy_(original)


class _NoisyProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Adds random errors to the inputs and outputs of products, while active."""

    def __init__(self, relative: float, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._relative, self._generator = relative, generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        position = _PRODUCTS.get(func)
        if position is None:
            return func(*args, **(kwargs or {}))
        noisy = list(args)
        noisy[position] = self._with_errors(noisy[position])
        return self._with_errors(func(*noisy, **(kwargs or {})))

    def _with_errors(self, values: Tensor) -> Tensor:
        if not values.numel() or not values.is_floating_point():
            return values
        low, high = values.min().clamp(max=0), values.max().clamp(min=0)
        noise = torch.rand(values.shape, generator=self._generator).to(values.dtype) * 2 - 1
        return values + noise * (high - low) * self._relative


def _size(error: NDArray[Any], *, jumps: bool) -> float:
    """Return the root mean square of the errors; with `jumps`, the median over the samples."""
    squares = np.square(error.astype(np.float64))
    if jumps and squares.ndim > 1:
        return float(np.sqrt(np.median(squares.reshape(len(squares), -1).mean(1))))
    return float(np.sqrt(squares.mean())) if squares.size else 0.0


def _rounding(network: nn.Module, answers: NDArray[Any]) -> float:
    """Return the error that the network's datatype explains in these answers."""
    dtypes = {parameter.dtype for parameter in network.parameters()}
    coarser = max((_COARSER.get(dtype, 1.0) for dtype in dtypes), default=1.0)
    if answers.dtype.kind != "f" or not answers.size:
        return 0.0
    values = np.where(np.isfinite(answers), answers, 0).astype(np.float64)
    spread = np.abs(values - values.mean(0)).max() if values.ndim else abs(values)
    return coarser * float(TOLERANCE * spread + _EPSILON * np.abs(values).max())


def _largest_difference(answer: NDArray[Any], right: NDArray[Any]) -> float:
    if right.dtype.kind != "f":
        return 0.0 if np.array_equal(answer, right) else np.inf
    with np.errstate(invalid="ignore"):
        difference = np.abs(answer.astype(np.float64) - right)
    same = (answer == right) | (np.isnan(answer) & np.isnan(right))
    return float(np.where(same, 0, difference).max(initial=0))


def _require_shapes(answers: Answers, expected: Answers, batch: Samples) -> None:
    got = [(answer.dtype, answer.shape) for answer in answers]
    right = [(answer.dtype, answer.shape) for answer in expected]
    if got != right:
        raise Wrong(f"outputs are {got} instead of {right}, for {_sizes(batch)}")


def _batches(samples: Samples) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches of 1, 3 and all samples, others each."""
    size = count(samples)
    for selection in (slice(0, 1), slice(1, 4), slice(0, size), slice(size - 1, size)):
        yield rows(samples, selection)


def _of_all_lengths(samples: Samples, axes: Axes, reference: nn.Module) -> Iterator[Samples]:
    """Yield the samples, and cut to 1, cut to a half and lengthened by a half, where torch can."""
    yield samples
    sizes = [samples[name].shape[axis] for name, named in axes.items() for axis in named]
    for length in sorted({1, sizes[0] // 2, sizes[0] * 3 // 2}) if sizes else ():
        resized = dict(samples)
        for name, named in axes.items():
            for axis in named:
                repeated = np.concatenate([resized[name]] * 2, axis)
                resized[name] = np.take(repeated, range(length), axis)
        try:
            torch_answers(reference, resized)
        except (RuntimeError, IndexError, ValueError):
            continue
        yield resized


def _sizes(batch: Samples) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in batch.items())


def _array(output: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = (
        output.float().numpy() if output.dtype == torch.bfloat16 else output.numpy()
    )
    return array


def serve_with(runner: Callable[[Samples], dict[str, NDArray[Any]]], names: Sequence[str]) -> Serve:
    """Return a function that runs a variant and returns its outputs in the order of `names`."""

    def serve(batch: Samples) -> Answers:
        answers = runner(batch)
        if list(answers) != list(names):
            raise Wrong(f"outputs are {', '.join(answers)} instead of {', '.join(names)}")
        return list(answers.values())

    return serve
