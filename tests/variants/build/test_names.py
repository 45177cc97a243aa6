"""A model whose inputs have unusual names is built, measured and run in both runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from tests.small import measure_lightly, quiet
from tests.variants import two_inputs
from tests.variants.model.projects import write_model, write_project
from variants.build.build import build
from variants.model.forward import all_scores
from variants.runtime.runner import load_runner

SOURCE = {
    "network": "from tests.variants import two_inputs\ndef network(): return two_inputs.network()",
    "datasets": """
def datasets():
    def renamed(split):
        ids, mask = split.samples.values()
        return Split({NAMES}, split.labels)
    data, axes = two_inputs.datasets(), {1: 'tokens'}
    parts = map(renamed, (data.train, data.validation, data.test))
    return Datasets(*parts, axes={FIRST: axes, SECOND: axes})
""",
}


@pytest.mark.parametrize(("first", "second"), [("file", "FILE"), ("a b/c.d", "allow_pickle")])
def test_inputs_may_have_unusual_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    names = f"{{{first!r}: ids, {second!r}: mask}}"
    source = SOURCE["datasets"].replace("{NAMES}", names)
    source = source.replace("FIRST", repr(first)).replace("SECOND", repr(second))
    model = write_model(tmp_path, monkeypatch, network=SOURCE["network"], datasets=source)
    safetensors.torch.save_file(two_inputs.network().state_dict(), tmp_path / "weights.safetensors")
    packed = {"technique": "sparse-n:m", "parameters": {"min_rows": 1, "packing": "always"}}
    project = write_project(tmp_path, model, {"int8": [{"technique": "int8"}], "packed": [packed]})
    catalog = build(project, tmp_path / "catalog", progress=quiet(), measure=measure_lightly)
    assert [spec.name for spec in catalog.model.inputs] == [first, second]
    texts = two_inputs.split(5).samples
    renamed = dict(zip((first, second), texts.values(), strict=True))
    expected = all_scores(two_inputs.network(), texts).numpy()
    for name, variant in catalog.variants.items():
        run = load_runner(tmp_path / "catalog", catalog.model, variant, threads=1)
        scores = run(renamed)["logits"]
        assert scores.shape == expected.shape
        if name == "dense":
            np.testing.assert_allclose(scores, expected, atol=1e-5)
