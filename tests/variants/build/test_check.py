from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.variants import tiny
from tests.variants.model.projects import write_model, write_project, write_weights
from variants.build.check import check, load_checked_project
from variants.build.finding import CheckResult

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights file of the tiny network, trained once; do not alter it."""
    folder = tmp_path_factory.mktemp("trained")
    write_weights(folder)
    return folder / "weights.safetensors"


@pytest.fixture
def project(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a project of the trained tiny network.

    Functions of the network's module can be replaced.
    """
    shutil.copy(trained, tmp_path)

    def write(recipes: dict[str, Any] | None = None, **functions: str) -> Path:
        return write_project(
            tmp_path, write_model(tmp_path, monkeypatch, **functions), recipes or {}
        )

    return write


def _check(path: Path, *verdicts: str) -> list[tuple[str, str]]:
    """Return subject and text of the results with these verdicts, or of all."""
    results: list[CheckResult] = []
    can_be_built = check(path, results.append)
    assert can_be_built == all(result.verdict != "error" for result in results)
    return [(r.subject, r.text) for r in results if not verdicts or r.verdict in verdicts]


def test_a_valid_project_has_a_result_for_every_part(project: Write) -> None:
    path = project({"int8": [{"technique": "int8"}]})
    assert _check(path, "warning", "error") == []
    results = dict(_check(path))
    assert list(results) == [
        "project", "recipe dense", "recipe int8", "model", "network()", "weights()", "datasets()",
        "answers", "samples", "export", "accuracy", "overlap", "dry run dense", "dry run int8",
        "build",
    ]  # fmt: skip
    assert results["network()"] == "Sequential of 467 parameters"
    assert results["datasets()"] == "train 400, validation 120, test 100"
    assert results["answers"] == "input FP32 [-1, 8], logits FP32 [-1, 3]; 3 classes"
    accuracy = re.match(r"(\d+)\.\d% of 120 validation samples", results["accuracy"])
    assert accuracy
    assert int(accuracy[1]) > 70


NETWORK, WEIGHTS, DATASETS = "network", "weights", "datasets"


@pytest.mark.parametrize(
    ("function", "body", "subject", "message"),
    [
        pytest.param(NETWORK, "", "network()", r"model_\d+\.py has no function network\(\)",
                     id="a function is missing"),
        pytest.param(NETWORK, "def network(): return nn.Linear", "network()",
                     r"network\(\) must return a torch\.nn\.Module, got type", id="no module"),
        pytest.param(NETWORK, "def network(): return tiny.nonsense()", "network()",
                     r"network\(\) failed: AttributeError: .*nonsense.* \(model_.*\.py, line \d",
                     id="a function fails"),
        pytest.param(WEIGHTS, "def weights(): return 'weights.safetensors'", "weights()",
                     "must return the pathlib.Path of a safetensors file, got str", id="no path"),
        pytest.param(WEIGHTS, "def weights(): return Path('w.safetensors')", "weights()",
                     "there is no weights file w.safetensors; train", id="no weights"),
        pytest.param(WEIGHTS, "def weights(): return Path(__file__)", "weights()",
                     r"is not a safetensors file .* write one with safetensors\.torch\.save_file",
                     id="weights of another format"),
        pytest.param(NETWORK, "def network(): return nn.Sequential(nn.Linear(8, 3), nn.PReLU())",
                     "weights()",
                     r"it lacks 1\.weight; the network has no [24]\..* and 1 more; it has "
                     r"0\.weight \[16, 8\] where the network has \[3, 8\], 0\.bias",
                     id="weights of another network"),
        pytest.param(DATASETS, "def datasets(): return tiny.split(9)", "datasets()",
                     "must return variants.model.dataset.Datasets, got Split", id="no datasets"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    return Split({'input': np.ones((2, 8))}, np.ones(2, np.int32))",
                     "datasets()", r"failed: labels must be INT64 \[n\], got int32",
                     id="labels of another type"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    return replace(tiny.datasets(), test=tiny.split(0))",
                     "datasets()", "each of the three splits must have samples", id="empty"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    other = Split({'x': np.ones((9, 8), 'f4')}, np.zeros(9, np.int64))\n"
                     "    return replace(tiny.datasets(), test=other)",
                     "datasets()", "test split has x float32 .*, the train split input float32",
                     id="other inputs"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    other = Split({'input': np.ones((9, 7))}, np.zeros(9, np.int64))\n"
                     "    return replace(tiny.datasets(), test=other)",
                     "datasets()", r"has input float64 \[n, 7\], the train split",
                     id="another type"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    other = Split({'input': np.ones((9, 7), 'f4')}, np.zeros(9, np.int64))\n"
                     "    return replace(tiny.datasets(), test=other)",
                     "datasets()", r"has input float32 \[n, 7\], the train .* \[n, 8\]",
                     id="another shape"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    data = tiny.datasets()\n"
                     "    data.train.samples['input'][[7, 9], 2] = np.nan\n"
                     "    return data",
                     "datasets()", "'input' of train contains NaN or infinity in 2 of 400 "
                     "samples, first in sample 7", id="not a number"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    words = Split({'input': np.array([['a'] * 8])}, np.zeros(1, np.int64))\n"
                     "    return Datasets(words, words, words)",
                     "datasets()", "'input' of train is <U1: inputs must be numbers", id="words"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    data = tiny.datasets()\n"
                     "    data.validation.labels[5] = 3\n"
                     "    return data",
                     "answers", r"labels of validation are 0 to 3, .* 3 scores: .* 0 to 2",
                     id="a label beyond the classes"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    data = tiny.datasets()\n"
                     "    data.test.labels[5] = -1\n"
                     "    return data",
                     "answers", r"labels of test are -1 to 2", id="a label below 0"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    wide = Split({'input': np.ones((9, 9), 'f4')}, np.zeros(9, np.int64))\n"
                     "    return Datasets(wide, wide, wide)",
                     "answers", r"cannot take a sample \(input float32 \[1, 9\]\): .*9.*8",
                     id="samples of another shape than the network's"),
        pytest.param(DATASETS, "def datasets():\n"
                     "    return replace(tiny.datasets(), axes={'ids': {1: 'n'}})",
                     "answers", "axes name an unknown input 'ids'; the inputs are input",
                     id="unknown axes"),
    ],
)  # fmt: skip
def test_an_error_names_the_part_and_what_would_be_right(
    project: Write, function: str, body: str, subject: str, message: str
) -> None:
    path = project(**{function: body})
    results = _check(path, "error")
    assert any(where == subject and re.search(message, text) for where, text in results), results
    with pytest.raises(ValueError, match=message):
        load_checked_project(path)


WRAPPED = """
class Wrapped(nn.Sequential):
    def forward(self, x):
        scores = super().forward(x)
        return {answer}
def network(): return Wrapped(*tiny.network())
"""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("scores.argmax(1)", r"must be scores \[n, classes\], .* of 4 samples, got \[4\]"),
        ("scores[:, :1]", r"must be scores \[n, classes\], .* got \[4, 1\]"),
        (
            "scores.argmax(1, keepdim=True).repeat(1, 3)",
            "floating-point scores, got int64: .*argmax",
        ),
        ("scores / scores.new_zeros(1)", "scores contain NaN or infinity"),
        ("scores - scores.mean(0)", r"change by .* with the batch it is in, from 2 samples on"),
        (
            "scores.flip(1) if len(x) > 32 else scores",
            "with the batch it is in, from 33 samples on",
        ),
        ("scores + torch.randn_like(scores)", "change by .* from call to call"),
        ("scores.reshape(3)[None]", "accepts one sample, but not a batch of 4: .*first dimension"),
        ("{'scores': scores}", "must return a tensor of scores"),
    ],
)
def test_answers_that_cannot_be_served_are_refused(
    project: Write, answer: str, message: str
) -> None:
    ((subject, text),) = _check(project(network=WRAPPED.format(answer=answer)), "error")
    assert subject == "answers"
    assert re.search(message, text)


def test_a_model_that_cannot_be_exported_is_refused(project: Write) -> None:
    branching = WRAPPED.format(answer="scores if scores.sum() > 1e9 else scores * 1")
    ((subject, text),) = _check(project(network=branching), "error")
    assert subject == "export"
    assert "cannot be exported to ONNX: " in text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("nn.utils.parametrizations.weight_norm(network[2])", r"weights from others: 2; call rem"),
        ("nn.utils.weight_norm(network[0])", r"weights from others: 0; call remove_param"),
        ("network[0].bias_twice = network[0].bias * 2", "cannot be copied .*deepcopy"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_network_that_computes_its_weights_is_refused(
    project: Write, body: str, message: str
) -> None:
    source = f"def network():\n    network = tiny.network()\n    {body}\n    return network"
    ((subject, text),) = _check(project(network=source), "error")
    assert subject == "network()"
    assert re.search(message, text), text


def test_scores_that_are_nan_for_a_single_sample_are_refused(project: Write) -> None:
    centred = "(scores - scores.mean(0))"
    source = WRAPPED.format(answer=f"{centred} / {centred}.norm(dim=0)")
    ((_, text),) = _check(project(network=source), "error")
    assert "with the batch it is in" in text


def test_all_errors_are_reported_at_once(project: Write) -> None:
    path = project(
        {
            "a": [{"technique": "int3"}],
            "b": [{"technique": "int8"}, {"technique": "sparse-n:m"}],
            "c": [{"technique": "int8", "parameters": {"bits": 4}}],
        },
        weights="",
        datasets="def datasets(): return replace(tiny.datasets(), test=tiny.split(0))",
    )
    messages = {
        "recipe a": "unknown technique 'int3'",
        "recipe b": "step 2, 'sparse-n:m', cannot follow 'int8'",
        "recipe c": "invalid parameters of 'int8': bits",
        "weights()": "has no function weights()",
        "datasets()": "each of the three splits must have samples",
    }
    results = dict(_check(path, "error"))
    assert results.keys() == messages.keys()
    for subject, message in messages.items():
        assert message in results[subject]
    with pytest.raises(ValueError, match="int3") as refused:
        load_checked_project(path)
    assert str(refused.value) == "\n".join(results.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such.model",
            r"No module named 'no_such'; searched the installed .*; write an import path",
        ),
        ("recipes.py", r"No module named 'recipes'; .* without `\.py`"),
        ("broken", r"cannot import broken: SyntaxError: .*\(broken\.py, line 1\)"),
        (
            "needy",
            r"cannot import needy: No module named 'left_pad'; searched the installed [^;]*$",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "broken.py").write_text("def network(:")
    (tmp_path / "needy.py").write_text("import left_pad")
    monkeypatch.syspath_prepend(tmp_path)
    ((subject, text),) = _check(write_project(tmp_path, name, {}), "error")
    assert subject == "model"
    assert re.search(message, text)


def test_weights_that_are_not_finite_are_refused(project: Write, tmp_path: Path) -> None:
    tensors = tiny.network().state_dict() | {"2.bias": torch.full((16,), torch.nan)}
    path = project()
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    assert _check(path, "error") == [
        ("weights()", f"{tmp_path / 'weights.safetensors'}: 2.bias contains NaN or infinity"),
        ("answers", "the network's scores contain NaN or infinity"),
    ]


def test_a_network_that_is_not_trained_gets_a_warning(project: Write, tmp_path: Path) -> None:
    path = project()
    safetensors.torch.save_file(tiny.network(5).state_dict(), tmp_path / "weights.safetensors")
    labels = tiny.datasets().validation.labels
    share = np.bincount(labels).max() / len(labels)
    ((subject, text),) = _check(path, "warning")
    assert subject == "accuracy"
    assert f"would be right for {share:.1%}: check that the weights are trained" in text


def test_test_samples_of_the_train_split_are_counted(project: Write) -> None:
    path = project(
        datasets="def datasets():\n"
        "    data = tiny.datasets()\n"
        "    data.test.samples['input'][10:13] = data.train.samples['input'][:3]\n"
        "    return data"
    )
    assert _check(path, "warning") == [
        (
            "overlap",
            "3 of 100 test samples are also in train, byte for byte: accuracy on them is not "
            "meaningful",
        )
    ]


def test_the_command_prints_every_result_and_exits_with_2_on_errors(tmp_path: Path) -> None:
    recipes = {"x": [{"technique": "int3"}]}
    path = write_project(tmp_path, "no_such_module", recipes)
    done = subprocess.run(
        [sys.executable, "-c", "from paretoserve.main import main; main()", "check", str(path)],
        env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "✓ ok      project", "✓ ok      recipe dense", "✗ error   recipe x", "✗ error   model",
    ]  # fmt: skip


EMBEDDING = """
class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.f = nn.Embedding(20, 4), nn.Linear(4, 3)
    def forward(self, ids): return self.f(self.words(ids).mean(1))
def network(): return Words()
"""
IDS = """
def datasets():
    ids = np.random.default_rng(0).integers(0, 20, (90, 5))
    ids[75, 3] = 20
    labels = np.arange(90) % 3
    parts = (Split({'ids': ids[i:i + 30]}, labels[i:i + 30]) for i in (0, 30, 60))
    return Datasets(*parts)
"""
EMBEDDING_WEIGHTS = """
def weights():
    from safetensors.torch import save_file
    path = Path(__file__).with_name('words.safetensors')
    save_file(network().state_dict(), path)
    return path
"""


def test_an_id_out_of_range_in_any_sample_is_found(project: Write) -> None:
    path = project(network=EMBEDDING, datasets=IDS, weights=EMBEDDING_WEIGHTS)
    ((subject, text),) = _check(path, "error")
    assert subject == "samples"
    assert re.match(
        r"sample 15 of test \(ids int64 \[5\], \d+ to 20\) is not answered: Index", text
    )


def test_a_recipe_that_cannot_work_is_found_and_the_others_are_tried(project: Write) -> None:
    path = project(
        {
            "a": [{"technique": "sparse-n:m", "parameters": {"min_rows": 999}}],
            "b": [{"technique": "int8"}],
        }
    )
    results = _check(path)
    ((subject, text),) = _check(path, "error")
    assert (subject, text.partition(":")[0]) == ("dry run a", "sparse-n")
    assert "dry run b" in dict(results)
    assert "build" not in dict(results)


RAISING = """
class Raising(nn.Sequential):
    def forward(self, x):
        if len(x) == 64: raise {error}
        return super().forward(x)
def network(): return Raising(*tiny.network())
"""


@pytest.mark.parametrize("error", ["KeyError('vocabulary')", "SystemExit(3)", "AssertionError"])
def test_whatever_the_user_s_code_raises_is_a_finding(project: Write, error: str) -> None:
    results = _check(project(network=RAISING.format(error=error)), "error")
    assert [subject for subject, _ in results] == ["answers"]


def test_code_that_ends_the_process_is_a_finding(project: Write) -> None:
    results = _check(project(datasets="def datasets(): raise SystemExit(1)"), "error")
    assert results[0][0] == "datasets()"


def test_a_buffer_may_hold_infinities(project: Write, tmp_path: Path) -> None:
    source = (
        "def network():\n    network = tiny.network()\n"
        "    network.register_buffer('mask', torch.full((3, 3), -torch.inf).triu(1))\n"
        "    return network"
    )
    path = project(network=source)
    tensors = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    tensors["mask"] = torch.full((3, 3), -torch.inf).triu(1)
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    assert _check(path, "error") == []


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_weights_in_another_type_are_refused_and_their_file_is_not(
    project: Write, tmp_path: Path, kind: str
) -> None:
    path = project(network=f"def network(): return tiny.network().{kind}()")
    tensors = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    stored = {name: getattr(tensor, kind)() for name, tensor in tensors.items()}
    safetensors.torch.save_file(stored, tmp_path / "weights.safetensors")
    ((subject, text),) = _check(path, "error")
    assert subject == "network()"
    assert "call .float() on the network in network()" in text
    assert _check(project(network="def network(): return tiny.network()"), "error") == []


def test_debug_prints_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("def network(): return [][1]")
    path = write_project(tmp_path, "failing", {})
    command = [
        sys.executable,
        "-c",
        "from paretoserve.main import main; main()",
        "check",
        str(path),
    ]
    plain, debug = (
        subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for options in ([], ["--debug"])
    )  # fmt: skip
    assert plain.returncode == debug.returncode == 2
    assert "Traceback" not in plain.stdout + plain.stderr
    assert "Traceback" in debug.stderr
    assert "IndexError" in debug.stderr
