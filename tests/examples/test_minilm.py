from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from examples.minilm import data, model
from examples.minilm.encoder import Block, Encoder, Size
from examples.minilm.prepare import ENCODER, VOCABULARY, encoder_tensors
from examples.minilm.tokens import Tokenizer
from tests.examples import small_minilm
from variants.catalog.recipe import Project
from variants.compression.techniques import resolve_all
from variants.model.loading import load_model
from variants.model.training import accuracy, predict

needs_data = pytest.mark.skipif(
    not data.FOLDER.exists(), reason="needs `python -m examples.fetch minilm` (170 MB)"
)
needs_weights = pytest.mark.skipif(
    not model.weights().exists(), reason="needs `python -m examples.minilm.train`"
)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return load_model("tests.examples.small_minilm").network


def _logits(network: nn.Module, texts: list[str]) -> torch.Tensor:
    inputs = small_minilm.TOKENIZER.encode(texts, small_minilm.LONGEST)
    with torch.inference_mode():
        logits: torch.Tensor = network(*map(torch.from_numpy, inputs.values()))
    return logits


def test_the_network_has_the_published_size() -> None:
    network = model.network()
    sizes = [sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.head)]
    assert sizes == [22_564_608, 6 * 384 + 6]
    assert len(network.encoder.blocks) == 6


def test_every_recipe_is_valid() -> None:
    project = Project.load(Path(model.__file__).with_name("recipes.yaml"))
    for recipe in project.recipes.values():
        resolve_all(recipe)


def test_padding_does_not_change_the_logits(small: nn.Module) -> None:
    short, long = "who was the king?", "where is the city of kings and wars?"
    together = _logits(small, [short, long])
    torch.testing.assert_close(together[0], _logits(small, [short])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1], _logits(small, [long])[0], atol=1e-5, rtol=1e-5)


def test_a_text_of_padding_only_has_finite_logits(small: nn.Module) -> None:
    padding = torch.zeros((2, 1), dtype=torch.int64)
    assert small(padding, padding).isfinite().all()


def test_a_head_can_be_removed_by_its_weights_alone(small: nn.Module) -> None:
    """A head whose values are 0 contributes nothing, so removing it keeps the logits."""
    network = small_minilm.network().eval()
    block = network.encoder.blocks[0]
    assert isinstance(block, Block)
    attention = block.attention
    with torch.no_grad():
        attention.value.weight[4:8] = 0
        attention.value.bias[4:8] = 0
    before = _logits(network, ["who was the king?"])
    kept = [*range(4), *range(8, 16)]
    for name in ("query", "key", "value"):
        linear = getattr(attention, name)
        smaller = nn.Linear(16, 12)
        smaller.load_state_dict({"weight": linear.weight[kept], "bias": linear.bias[kept]})
        setattr(attention, name, smaller)
    output = nn.Linear(12, 16)
    output.load_state_dict(
        {"weight": attention.output.weight[:, kept], "bias": attention.output.bias}
    )
    attention.output = output
    torch.testing.assert_close(_logits(network, ["who was the king?"]), before, atol=1e-6, rtol=0)


def test_tensors_of_a_published_bert_are_renamed_and_token_types_are_folded() -> None:
    size = Size(classes=2, vocabulary=7, positions=5, layers=1, width=8, head_dim=4, hidden=6)
    encoder = Encoder(size)
    tensors_of_encoder = encoder.state_dict()
    layer = "encoder.layer.0."
    published = {
        "embeddings.word_embeddings.weight": tensors_of_encoder["embeddings.word.weight"],
        "embeddings.position_embeddings.weight": torch.zeros(5, 8),
        "embeddings.token_type_embeddings.weight": torch.arange(16.0).reshape(2, 8),
        "embeddings.position_ids": torch.arange(5)[None],
    }
    for part in ("weight", "bias"):
        for name, published_name in {
            "embeddings.norm": "embeddings.LayerNorm",
            "blocks.0.attention.query": f"{layer}attention.self.query",
            "blocks.0.attention.key": f"{layer}attention.self.key",
            "blocks.0.attention.value": f"{layer}attention.self.value",
            "blocks.0.attention.output": f"{layer}attention.output.dense",
            "blocks.0.attention_norm": f"{layer}attention.output.LayerNorm",
            "blocks.0.expand": f"{layer}intermediate.dense",
            "blocks.0.contract": f"{layer}output.dense",
            "blocks.0.norm": f"{layer}output.LayerNorm",
        }.items():
            published[f"{published_name}.{part}"] = tensors_of_encoder[f"{name}.{part}"]
    tensors = encoder_tensors(published)
    encoder.load_state_dict(tensors)  # fails on missing and unknown tensors
    assert tensors["embeddings.position.weight"].tolist() == [list(range(8))] * 5


def test_missing_data_raises_an_error_with_the_download_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no TREC-6 in .*; `python -m examples.fetch minilm`"):
        data.load(tmp_path)


@needs_data
def test_the_splits_are_the_whole_of_trec6() -> None:
    datasets = data.load()
    assert [len(one) for one in (datasets.train, datasets.validation, datasets.test)] == [
        4_952, 500, 500,
    ]  # fmt: skip
    assert np.bincount(datasets.test.labels).tolist() == [138, 94, 9, 65, 113, 81]
    first = datasets.test.samples["input_ids"][0]  # How far is it from Denver to Aspen ?
    expected = [101, 2129, 2521, 2003, 2009, 2013, 7573, 2000, 18567, 1029, 102, 0]
    assert first[:12].tolist() == expected
    assert datasets.test.samples["attention_mask"].sum(axis=1).max() == data.TOKENS


@needs_data
def test_the_encoder_computes_the_published_vectors() -> None:
    """Reference: BertModel of transformers 5.23 with the same weights, masked mean, FP32."""
    encoder = model.network().encoder.eval()
    encoder.load_state_dict(safetensors.torch.load_file(data.FOLDER / ENCODER))
    sentences = [
        "A man is eating food.",
        "Someone is having a meal.",
        "The stock market fell sharply today.",
    ]
    encoded = Tokenizer.load(data.FOLDER / VOCABULARY).encode(sentences, data.TOKENS)
    with torch.inference_mode():
        vectors = encoder(*map(torch.from_numpy, encoded.values()))
    expected = torch.tensor(
        [
            [0.1872, 0.0248, -0.0354, 0.2725],
            [-0.0301, 0.1642, -0.1314, 0.0737],
            [0.3557, 0.0320, 0.4504, 0.3167],
        ]
    )
    torch.testing.assert_close(vectors[:, :4], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        vectors.norm(dim=1), torch.tensor([5.6327, 5.7472, 5.8829]), atol=1e-4, rtol=0
    )
    near = torch.nn.functional.cosine_similarity(vectors[[0, 0]], vectors[[1, 2]])
    torch.testing.assert_close(near, torch.tensor([0.6888, 0.0037]), atol=1e-4, rtol=0)


@needs_weights
def test_the_trained_network_is_accurate() -> None:
    loaded = load_model("examples.minilm.model")
    assert accuracy(loaded.network, loaded.datasets.test) > 0.93


@needs_weights
def test_new_questions_are_classified() -> None:
    network = load_model("examples.minilm.model").network
    questions = {"Who wrote Faust?": "human", "Where is Bonn?": "location"}
    inputs = Tokenizer.load(data.FOLDER / VOCABULARY).encode(list(questions), data.TOKENS)
    predicted = [data.CLASSES[index] for index in predict(network, inputs).tolist()]
    assert predicted == list(questions.values())
