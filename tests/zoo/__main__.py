"""`make zoo`: tries every technique on every network of the zoo, and prints what became of it.

    python -m tests.zoo                      all networks
    python -m tests.zoo gru encoder          those whose names contain one of the words
    python -m tests.zoo --case int8          only the cases whose names contain it

The exit status is 1 if an answer is wrong, or if an error is none of the product.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and in child processes

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.zoo.cases import CASES
from tests.zoo.networks import chosen
from tests.zoo.pool import try_all
from tests.zoo.trial import CHECK, Outcome
from variants.catalog.recipe import DENSE

_VERDICTS = ("right", "refused", "wrong", "crashed")


def main(arguments: Sequence[str]) -> int:
    """Try the chosen networks and cases; return the exit status."""
    parser = argparse.ArgumentParser(prog="make zoo", description="Try techniques on networks.")
    parser.add_argument("network", nargs="*", help="a part of the names of networks")
    parser.add_argument("--case", action="append", default=[], help="a part of the names of cases")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(arguments)
    names = list(chosen(options.network))
    cases = [n for n in CASES if not options.case or n == DENSE or _has(n, options.case)]
    outcomes = try_all(names, cases, options.jobs)
    console = Console(width=140)
    console.print(_table(outcomes))
    _print_reasons(console, outcomes)
    return int(any(outcome.verdict in ("wrong", "crashed") for outcome in outcomes))


def _has(name: str, words: Sequence[str]) -> bool:
    return any(word in name for word in words)


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table("technique", title="networks by technique and outcome")
    for verdict in _VERDICTS:
        table.add_column(verdict, justify="right")
    counts = {case: Counter[str]() for case in (CHECK, *CASES)}
    for outcome in outcomes:
        counts[outcome.case][outcome.verdict] += 1
    for case, count in counts.items():
        if count:
            table.add_row(case, *(str(count[verdict] or "") for verdict in _VERDICTS))
    total = sum(counts.values(), Counter())
    table.add_section()
    table.add_row("all", *(str(total[verdict]) for verdict in _VERDICTS))
    return table


def _print_reasons(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print why networks were refused, by technique and reason, and all that is wrong."""
    for verdict in _VERDICTS[1:]:
        console.rule(verdict, align="left")
        by_text: dict[tuple[str, str], list[str]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.verdict == verdict:
                text = outcome.text.removeprefix(f"{outcome.case}: ")
                by_text[outcome.case, text].append(outcome.specimen)
        for (case, text), specimens in sorted(by_text.items()):
            line = f"{case}: {', '.join(specimens)}: {text}"
            console.print(line, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
