"""Builds one generation of a variant in a process of its own, for a running service.

    BuildRequest on stdin ─▶ techniques ─▶ recovery ─▶ evaluation ─▶ profiling ─▶ generation
                             one line of JSON on stdout for each event (`variants.catalog`)

The process ends when its standard input is closed, so that none outlives its parent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import Progress

from variants.build.build import Measure, apply_technique, make_variant, require_same_model
from variants.build.check import load_checked_project
from variants.catalog import artifact, generations
from variants.catalog.build_request import (
    BuildError,
    BuildEvent,
    BuildLog,
    BuildProgress,
    BuildRequest,
    BuildResult,
    BuildStage,
)
from variants.catalog.catalog import Catalog, Model, ReportCard, Variant
from variants.catalog.device import Device, is_gpu
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE
from variants.compression.techniques import resolve_all
from variants.compression.techniques.recovery import Recover
from variants.compression.techniques.technique import Technique
from variants.measurement.progress import PhaseCallback
from variants.measurement.report_card import measure
from variants.model.dataset import Split
from variants.model.state import CompressionState
from variants.runtime.onnx import FILE as MODEL_FILE

Emit: TypeAlias = Callable[[BuildEvent], None]
"""Receives the events of a build."""

CPU_TIME_NOTE: Final = "latencies are CPU time, since the machine was serving meanwhile"

_POLL_S: Final = 0.2
"""Time between two looks at the progress bars of the techniques."""
_STOPPED: Final = 3
"""Exit status of a builder whose parent is gone."""


def measure_quickly(
    catalog: Path,
    model: Model,
    variants: Mapping[str, Variant],
    split: Split,
    *,
    threads: int,
    device: Device = "cpu",
    on_progress: PhaseCallback,
    only: Collection[str] | None = None,
) -> dict[str, ReportCard]:
    """Measure in a quarter of the usual time or less, on a machine that is busy.

    The intervals of the speedups are wider for it, the quantiles of slow batches are from 30 calls,
    and the load time is that of one process. A batch that one thread computes is timed by the CPU
    time of this thread, so that it does not count when other processes run; not on a GPU, for which
    the thread waits.
    """
    return measure(
        catalog,
        model,
        variants,
        split,
        threads=threads,
        device=device,
        on_progress=on_progress,
        only=only,
        seconds_per_point=0.3,
        processes=1,
        skip_slower_runtimes=True,
        least_calls=3,
        clock=time.thread_time if _counts_cpu_time(threads, device) else time.perf_counter,
    )


def _counts_cpu_time(threads: int, device: Device) -> bool:
    return threads == 1 and not is_gpu(device)


def build_generation(
    request: BuildRequest, emit: Emit, *, measure: Measure = measure_quickly
) -> BuildResult:
    """Build, measure and write a generation; report what happens through `emit`.

    The variant is measured in turns with dense of the catalog. Nothing but the generation is
    written. Raises `ValueError` in words for people if the request cannot be met.
    """
    stages = _Stages(emit)
    stages.report("techniques", 0.0)
    hardware(request.threads, request.device)  # raises if there is no such device
    if request.name == DENSE:
        raise ValueError("dense is the baseline of all measurements and cannot be built again")
    techniques = resolve_all(request.recipe)
    catalog = Catalog.load(request.catalog)
    artifact.discard_drafts(request.catalog)
    checked = load_checked_project(request.project)
    require_same_model(catalog, checked.model(), request.catalog)

    steps = " ─▶ ".join(technique.kind for technique in techniques) or "as trained"
    emit(BuildLog(log=f"{request.name}: {steps}"))
    progress = Progress(console=Console(quiet=True), disable=True)  # counted, but not drawn
    state = CompressionState(
        checked.network,
        checked.interface,
        dense=checked.network,
        dense_graph=_dense_graph(request.catalog / DENSE, catalog.variants[DENSE]),
    )
    data = checked.datasets.training_data
    for technique, stage, index, count in _parts(techniques):
        with _watch(progress, stages, stage, index, count):
            state = apply_technique(request.name, technique, state, data, progress)
    for step in state.coverage:
        emit(BuildLog(log=step.describe()))
    for note in state.notes:
        emit(BuildLog(log=note))

    with artifact.draft_folder(request.catalog, prefix=f"{request.name}-") as drafts:
        variant = make_variant(
            drafts,
            request.name,
            request.recipe,
            state,
            data,
            threads=request.threads,
            device=request.device,
        )
        (drafts / DENSE).symlink_to((request.catalog / DENSE).absolute())
        cards = measure(
            drafts,
            catalog.model,
            {DENSE: catalog.variants[DENSE], request.name: variant},
            checked.datasets.test,
            threads=request.threads,
            device=request.device,
            on_progress=stages.report_phase,
            only=(request.name,),
        )
        notes = variant.notes
        if _counts_cpu_time(request.threads, request.device):
            notes = (*notes, CPU_TIME_NOTE)
        measured = variant.model_copy(
            update={"report_cards": (cards[request.name],), "notes": notes}
        )
        draft = drafts / request.name
        artifact.write_record(draft / artifact.RECORD, measured)
        digest = generations.publish_draft(draft, request.catalog, request.name, request.number)
    emit(BuildLog(log=_describe(measured)))
    return BuildResult(built=digest)


def _dense_graph(folder: Path, dense: Variant) -> bytes | None:
    """Return the graph of dense from its artifact, which has the weights of the project."""
    file = next((file for file in dense.files if file.name == MODEL_FILE), None)
    return None if file is None else artifact.read(folder, file)


def _parts(
    techniques: Sequence[Technique],
) -> Iterator[tuple[Technique, BuildStage, int, int]]:
    """Yield each technique with its stage, and its index among those of the stage.

    The stage `recovery` begins with the first `recover`, and all that follow belong to it.
    """
    kinds = [technique.kind for technique in techniques]
    first = kinds.index(Recover.kind) if Recover.kind in kinds else len(kinds)
    for index, technique in enumerate(techniques):
        if index < first:
            yield technique, "techniques", index, first
        else:
            yield technique, "recovery", index - first, len(kinds) - first


class _Stages:
    """Reports stages and their shares, which only rise."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._last = ("", -1.0)

    def report(self, stage: BuildStage, share: float) -> None:
        """Report a share of a stage, unless it was reported already, to a hundredth."""
        share = round(min(max(share, 0.0), 1.0), 2)
        if stage == self._last[0] and share <= self._last[1]:
            return
        self._last = (stage, share)
        self._emit(BuildProgress(stage=stage, share=share))

    def report_phase(self, phase: str, share: float) -> None:
        """Report a phase of `measure`."""
        if phase == "answers":
            self.report("evaluation", share)
        elif phase == "latency":
            self.report("profiling", _LATENCY_SHARE * share)
        else:
            self.report("profiling", _LATENCY_SHARE + (1 - _LATENCY_SHARE) * share)


_LATENCY_SHARE: Final = 0.8
"""Share of the stage `profiling` in which latency is measured; the rest is for memory."""


@contextmanager
def _watch(
    progress: Progress, stages: _Stages, stage: BuildStage, index: int, count: int
) -> Iterator[None]:
    """Report the newest progress bar as the share of step `index` of `count`, while inside."""
    before = {task.id for task in progress.tasks}
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(_POLL_S):
            bars = [task for task in progress.tasks if task.id not in before and task.total]
            done = bars[-1].percentage / 100 if bars else 0.0
            stages.report(stage, (index + min(done, 0.99)) / count)

    stages.report(stage, index / count)
    watcher = threading.Thread(target=report, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    stages.report(stage, (index + 1) / count)


def _describe(variant: Variant) -> str:
    """Return the result of the measurement in one line."""
    (card,) = variant.report_cards
    drop = card.accuracy_difference
    last = card.latencies[0]
    return (
        f"accuracy {card.accuracy.value:.2%}, {100 * drop.value:+.2f} points "
        f"[{100 * drop.low:+.2f}, {100 * drop.high:+.2f}] against dense; "
        f"{1000 * last.p50_s:.3g} ms at batch {last.batch_size}, "
        f"{last.speedup.value:.2f} times as fast as dense"
    )


def _in_one_line(error: Exception) -> str:
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _read_line() -> bytes:
    """Return the first line of the standard input, unbuffered."""
    line = bytearray()
    while not line.endswith(b"\n") and (part := os.read(0, 65536)):
        line += part
    return bytes(line)


def _stop_without_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(_STOPPED)


def main() -> int:
    """Build the generation that the standard input asks for; return the exit status."""
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        # User modules may print, so stdout goes to stderr. Only events go to the parent.
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        lock = threading.Lock()

        def emit(event: BuildEvent) -> None:
            with lock:
                out.write(event.model_dump_json() + "\n")

        try:
            request = BuildRequest.model_validate_json(_read_line())
            threading.Thread(target=_stop_without_parent, daemon=True).start()
            emit(build_generation(request, emit))
        except Exception as error:
            if not isinstance(error, ValueError):  # a defect, or one of the user's code
                traceback.print_exc()
            emit(BuildError(error=_in_one_line(error)))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
