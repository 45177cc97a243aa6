"""Every Python example in the guides runs, against a real service where it sends requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Block, blocks
from tests.service import RunningService

EXAMPLES = {block.id: block for block in blocks("python") if block.page != "README.md"}


def example(page: str, part: str) -> Block:
    (found,) = [b for b in EXAMPLES.values() if b.page == page and part in b.text]
    return found


def execute(block: Block, **names: Any) -> dict[str, Any]:
    """Run a block with these names defined; return all names that it leaves."""
    exec(compile(block.text, block.id, "exec"), names)
    return names


@pytest.mark.cluster
def test_a_grpc_client(service: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    block = example("docs/clients.md", "tritonclient.grpc")
    text = block.text.replace("127.0.0.1:9000", f"127.0.0.1:{service.grpc_port}")
    text = text.replace("fashion-mnist", service.catalog.model.name)
    text = text.replace('"slo_latency_ms": 50', '"slo_latency_ms": 60000')
    text = text.replace("client_timeout=0.2", "client_timeout=60")
    execute(Block(block.page, block.line, block.language, text))
    assert capsys.readouterr().out.split()[0] in service.catalog.variants


def test_a_channel_that_balances_over_pods() -> None:
    from tritonclient.grpc import InferenceServerClient

    block = example("docs/kubernetes.md", "channel_args")
    execute(block, InferenceServerClient=InferenceServerClient)["client"].close()


def test_shares_from_a_sensitivity() -> None:
    from tests.variants.analysis.sensitivity.test_budget import layer, network

    sensitivity = network(layer("big", 900, 0, 0.1, 0.4), layer("small", 100, 0, 0.2, 0.5))

    block = example("docs/choosing.md", "allocate")
    shares = execute(block, sensitivity=sensitivity)["allocation"].shares
    assert shares


def test_axes_of_a_data_set() -> None:
    import numpy as np

    from variants.model.dataset import Datasets, Split

    tokens = {name: np.ones((2, 3), np.int64) for name in ("input_ids", "attention_mask")}
    split = Split(tokens, np.zeros(2, np.int64))
    execute(
        example("docs/models.md", "axes="),
        Datasets=Datasets, train=split, validation=split, test=split,
    )  # fmt: skip


def test_weights_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    import torch

    monkeypatch.chdir(tmp_path)
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    second.weight = first.weight  # tied weights, which `save_file` rejects
    network = torch.nn.Sequential(first, second)
    execute(example("docs/models.md", "save_file"), network=network)
    stored = safetensors.torch.load_file("weights.safetensors")
    assert stored.keys() == network.state_dict().keys()


@pytest.mark.slow
def test_a_build(small_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes.yaml").write_text(small_project.read_text())
    monkeypatch.chdir(tmp_path)
    names = execute(example("docs/python.md", "ps.build"))
    assert list(names["catalog"]) == ["dense", "int8"]


def test_a_catalog_and_a_variant(
    small_catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "catalog").symlink_to(small_catalog)
    monkeypatch.chdir(tmp_path)
    names = execute(example("docs/python.md", "open_catalog"))
    assert names["report"].variant == "int8"
    names = execute(example("docs/python.md", "ps.load"))
    assert names["scores"].shape == (5, 10)
    assert (names["outputs"]["logits"] == names["scores"]).all()


TESTED = ("tritonclient.grpc", "channel_args", "allocate", "axes=", "save_file", "ps.")
NEEDS_A_DOWNLOAD = ("examples.minilm",)
"""Examples with the models of `make models`; `tests/examples` runs the same calls."""


@pytest.mark.parametrize("block", EXAMPLES.values(), ids=EXAMPLES)
def test_every_example_is_tested_here(block: Block) -> None:
    compile(block.text, block.id, "exec")
    assert any(part in block.text for part in (*TESTED, *NEEDS_A_DOWNLOAD)), "add a test of it"
