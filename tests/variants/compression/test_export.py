from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.variants import tiny, tiny_conv, two_inputs
from variants.compression.export import export
from variants.model.dataset import Samples, count, rows
from variants.model.forward import outputs, tensors
from variants.model.loading import describe_interface
from variants.model.state import CompressionState
from variants.runtime.onnx import OnnxRunner

SAMPLES = tiny.split(30).samples
TEXTS = two_inputs.split(30).samples


def _export(network: nn.Module, samples: Samples = SAMPLES) -> bytes:
    axes = two_inputs.AXES if "ids" in samples else {}
    exported = export(network, samples, describe_interface(network, samples, axes))
    model: bytes = exported.SerializeToString(deterministic=True)
    return model


def _assert_equal_outputs(network: nn.Module, model: bytes, *batches: Samples) -> None:
    """Compare every output of onnxruntime with torch's, for batches of several sizes."""
    runner = OnnxRunner(model, threads=1)
    for samples in batches:
        for number in (1, 2, 17, count(samples)):
            batch = rows(samples, slice(0, number))
            with torch.inference_mode():
                expected = outputs(network, tensors(batch))
            for actual, tensor in zip(runner(batch).values(), expected, strict=True):
                assert actual.shape == tuple(tensor.shape)
                np.testing.assert_allclose(actual, tensor.numpy(), atol=1e-5)


def test_the_exported_model_computes_the_same_as_torch_at_any_batch_size() -> None:
    network = tiny.network()
    model = _export(network)
    assert OnnxRunner(model, threads=1)(rows(SAMPLES, slice(0, 3))).keys() == {"logits"}
    _assert_equal_outputs(network, model, SAMPLES)


@pytest.mark.parametrize("exported", [1, 2, 30])
def test_the_batch_size_of_the_export_does_not_matter(exported: int) -> None:
    network = tiny.network()
    _assert_equal_outputs(network, _export(network, rows(SAMPLES, slice(0, exported))), SAMPLES)


def test_texts_may_have_any_length() -> None:
    network = two_inputs.network()
    others = [two_inputs.split(20, seed=3, tokens=tokens).samples for tokens in (3, 7, 12, 50)]
    one = {name: array[:, :1] for name, array in TEXTS.items()}
    _assert_equal_outputs(network, _export(network, TEXTS), one, *others)


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_the_text_length_of_the_export_does_not_matter(tokens: int) -> None:
    network = two_inputs.network()
    short = {name: array[:, :tokens] for name, array in TEXTS.items()}
    _assert_equal_outputs(network, _export(network, short), TEXTS)


class _Several(nn.Module):
    """Returns scores, a number for each token, a mask of the tokens, and the class."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = two_inputs.network()

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        scores = self.classifier(ids, mask)
        each = self.classifier.embedding(ids).sum(dim=2).masked_fill(mask == 0, -torch.inf)
        return scores, each, mask > 0, scores.argmax(dim=1)


def test_several_outputs_of_different_datatypes_are_exported_by_name() -> None:
    network = _Several()
    model = _export(network, TEXTS)
    texts = two_inputs.split(5, tokens=9).samples
    arrays = OnnxRunner(model, threads=1)(texts)
    assert {name: (str(array.dtype), array.shape) for name, array in arrays.items()} == {
        "logits": ("float32", (5, 3)),
        "output_1": ("float32", (5, 9)),
        "output_2": ("bool", (5, 9)),
        "output_3": ("int64", (5,)),
    }
    assert np.isneginf(arrays["output_1"]).any()
    _assert_equal_outputs(network, model, TEXTS, texts)


def test_an_input_that_no_output_depends_on_is_exported() -> None:
    class WithoutMask(two_inputs.TwoInputs):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            logits: Tensor = self.head(self.hidden(self.embedding(ids).mean(dim=1)))
            return logits

    network = WithoutMask()
    _assert_equal_outputs(network, _export(network, TEXTS), two_inputs.split(20, tokens=5).samples)


def test_a_convolutional_network_is_exported_with_its_running_statistics() -> None:
    piece, samples = tiny_conv.state(), tiny_conv.split(30).samples
    model = export(piece.network.train(), samples, piece.interface).SerializeToString()
    _assert_equal_outputs(tiny_conv.network(), model, samples)
    assert not piece.network.training


@pytest.mark.parametrize(
    ("build", "samples"),
    [
        (tiny.state, SAMPLES),
        (two_inputs.state, TEXTS),
        (tiny_conv.state, tiny_conv.split(30).samples),
    ],
)
def test_equal_networks_give_equal_bytes_without_paths(
    build: Callable[[], CompressionState], samples: Samples
) -> None:
    first, second = (
        export(piece.network, samples, piece.interface).SerializeToString(deterministic=True)
        for piece in (build(), build())
    )
    assert first == second
    assert not re.search(rb"\.py|site-packages|stack_trace", first)


class _Random(nn.Module):
    """Returns random outputs, so that no export can equal it."""

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.rand_like(features)


class _LengthDependent(nn.Module):
    """Negates the output for one length, which an exported graph cannot do."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        total: Tensor = (ids * mask).sum(dim=1, keepdim=True)
        return -total if ids.shape[1] == 6 else total


class _Branching(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features if features.sum() > 0 else -features


class _OneBatch(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.reshape(16, -1) if len(features) == 16 else features


class _Unknown(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(features.reshape(-1, 4, 2))
        return values


@pytest.mark.parametrize(
    ("network", "samples", "message"),
    [
        (_Random(), SAMPLES, r"fails for input \[1, 8\]: 'logits' differs .* from call to call"),
        (
            _LengthDependent(), TEXTS,
            r"fails for ids \[3, 6\], mask \[3, 6\]: 'logits' differs from torch",
        ),
        (
            _Branching(), SAMPLES,
            "control flow in forward must not depend on the values of inputs: .*data-dependent.*"
            r"test_export.py.*, in forward: return features if features.sum\(\) > 0 else",
        ),
        (_OneBatch(), SAMPLES, "be exported to ONNX: .*a static shape of 16 for dimension"),
        (_Unknown(), SAMPLES, "be exported to ONNX: No ONNX function found for .*svd"),
    ],
    ids=["random", "depends on length", "depends on values", "one batch size", "no operator"],
)  # fmt: skip
def test_a_model_that_cannot_be_exported_is_refused_with_the_reason_and_no_output(
    network: nn.Module, samples: Samples, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        _export(network, samples)
    assert capfd.readouterr() == ("", "")


class _ManySamples(nn.Module):
    """Reverses the scores of more than 32 samples."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flip(1) if len(features) > 32 else features


class _SevenSamples(nn.Module):
    """Reverses the scores of exactly seven samples."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flip(1) if features.shape[0] == 7 else features


class _LongTexts(nn.Module):
    """Negates the scores of texts longer than 100 tokens, and there are none among the samples."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        total: Tensor = (ids * mask).sum(dim=1, keepdim=True)
        return -total if ids.shape[1] > 100 else total


class _Positions(nn.Module):
    """Has positions for 20 tokens, so that torch rejects longer texts."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(20, 3))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        total: Tensor = (ids[..., None] * 0.01 + self.positions[: ids.shape[1]]).sum(1)
        return total


class _Inside(nn.Module):
    """Computes in another type than FP32 inside."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.f, self.kind = nn.Linear(tiny.INPUTS, 3), kind

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = torch.erf(self.f(features).to(self.kind) * 0.3).float()
        return scores


@pytest.mark.parametrize(
    ("network", "samples", "message"),
    [
        (
            _ManySamples(), SAMPLES,
            r"fails for input \[33, 8\]: .*; it is right for 1, .*32: forward must compute the "
            r"same for every size, so remove what depends on the number of samples",
        ),
        (_SevenSamples(), SAMPLES, r"fails for input \[7, 8\]: .*; it is right for 1, 3: forward"),
        (
            _LongTexts(), TEXTS,
            r"fails for ids \[3, 101\], mask \[3, 101\]: .*; it is right for 1, .*100: .*"
            r"depends on the size of 'tokens'",
        ),
        (_Inside(torch.float16), SAMPLES, r"differs .*; forward computes in FP16, .*half"),
        (_Inside(torch.bfloat16), SAMPLES, r"cannot run .*; forward computes in BF16, .*autocast"),
        (_Inside(torch.float64), SAMPLES, r"cannot run .*; forward computes in FP64, .*\.double"),
    ],
    ids=["many samples", "seven samples", "long texts", "fp16", "bf16", "fp64"],
)  # fmt: skip
def test_a_model_that_is_right_for_some_sizes_only_is_refused(
    network: nn.Module, samples: Samples, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _export(network, samples)


def test_sizes_that_torch_rejects_too_are_no_error() -> None:
    network = _Positions()
    _assert_equal_outputs(network, _export(network, TEXTS), TEXTS)


class _Sum(nn.Module):
    """Has a layer whose values have the names of the test's inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(3, 3)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        scores = self.f(torch.stack(inputs).sum(0)).relu() * 0.5
        return scores, scores, inputs[0]


class _Two(_Sum):
    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(first, second)


@pytest.mark.parametrize(
    "names",
    [("linear", "relu"), ("val_0", "f.weight.T"), ("an input", "a.b"), ("x", "X"), ("ö", "a/b")],
)
def test_inputs_may_have_any_name(names: tuple[str, str]) -> None:
    random = np.random.default_rng(0)
    samples = {key: random.normal(size=(20, 3)).astype(np.float32) for key in names}
    network = _Two()
    runner = OnnxRunner(_export(network, samples), threads=1)
    answers = runner(samples)
    assert list(answers) == ["logits", "output_1", "output_2"]
    with torch.inference_mode():
        expected = outputs(network, tensors(samples))
    for actual, tensor in zip(answers.values(), expected, strict=True):
        np.testing.assert_allclose(actual, tensor.numpy(), atol=1e-5)


class _Casting(nn.Module):
    """Takes numbers of any type, and has a buffer in FP64."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(tiny.INPUTS, 3)
        self.register_buffer("scale", torch.full((tiny.INPUTS,), 1 / 3, dtype=torch.float64))

    def forward(self, pixels: Tensor) -> Tensor:
        scores: Tensor = self.f((pixels.double() * self.scale).float())
        return scores


@pytest.mark.parametrize("kind", ["uint8", "int64", "int16", "bool", "float16", "float64"])
def test_inputs_may_have_any_type_that_forward_converts(kind: str) -> None:
    samples = {"pixels": np.abs(SAMPLES["input"] * 100).astype(kind)}
    network = _Casting()
    _assert_equal_outputs(network, _export(network, samples), samples)
