"""A project that is created in a second and a search of it of a few seconds; also a program.

python -m tests.variants.analysis.search.small_search PROJECT STATE
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import yaml
from rich.progress import Progress
from torch import nn

from tests.small import quiet
from tests.variants import tiny
from tests.waiting import GIVE_UP_S
from variants.analysis.search.context import SearchContext, measure_recipe
from variants.analysis.search.goal import Cost, Goal
from variants.analysis.search.result import SearchResult
from variants.analysis.search.search import MeasureRecipe, search
from variants.analysis.search.space import STRENGTH, Family
from variants.analysis.search.store import Measurement
from variants.catalog.recipe import Recipe, Step
from variants.model import training
from variants.model.training import Schedule, fit

GOAL = Goal(max_drop=0.2, least="parameters")

ALL = frozenset[Cost]({"parameters", "bytes", "latency"})
RECOVER = Step(technique="recover", parameters={"epochs": 1, "batch_size": 32})
PRUNING = Step(technique="activation-pruning", parameters={"share": STRENGTH})
SPACE = (
    Family("pruned", ALL, (PRUNING, RECOVER), (0.1, 0.4, 0.7)),
    Family("int8", frozenset[Cost]({"bytes"}), (Step(technique="int8"),)),
    Family("misspelt", ALL, (Step(technique="prunning"),)),
    Family("unsuited", ALL, (Step(technique="activation-pruning", parameters={"share": 0.999}),)),
)

MODULE = """
from pathlib import Path
from tests.variants.tiny import datasets, network

def weights():
    return Path(__file__).with_suffix(".safetensors")
"""


def write_project(folder: Path, name: str) -> Path:
    """Train a tiny network, and write its weights, its module `name` and its project file."""
    trained: nn.Module = tiny.network()
    fit(trained, tiny.datasets().train, Schedule(epochs=20, batch_size=32), quiet())
    safetensors.torch.save_file(trained.state_dict(), folder / f"{name}.safetensors")
    (folder / f"{name}.py").write_text(MODULE)
    path = folder / "recipes.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "model": name, "recipes": {"dense": []}}))
    return path


def run_search(
    project: Path,
    state: Path,
    goal: Goal = GOAL,
    time_limit_s: float = 600,
    progress: Progress | None = None,
    measure: MeasureRecipe = measure_recipe,
    space: Sequence[Family] = SPACE,
) -> SearchResult:
    sys.path.append(str(project.parent))
    return search(
        project,
        goal,
        state,
        progress or quiet(),
        time_limit_s=time_limit_s,
        space=space,
        seconds_per_point=0.01,
        measure=measure,
    )


def wait_in_third() -> MeasureRecipe:
    """Return a function that measures two candidates, and waits to be killed in the third."""
    numbers = itertools.count(1)

    def measure(
        context: SearchContext, recipe: Recipe, on_step: Callable[[str], None]
    ) -> Measurement:
        if next(numbers) == 3:
            time.sleep(GIVE_UP_S)
        return measure_recipe(context, recipe, on_step)

    return measure


if __name__ == "__main__":
    training._BF16_FLAGS = set()  # as in the process of the tests
    run_search(Path(sys.argv[1]), Path(sys.argv[2]), measure=wait_in_third())
