from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import update

from serving.control.state import GenerationState
from serving.control.store.changes import (
    TRANSITIONS,
    IllegalTransition,
    add_generation,
    ensure_variant,
    move,
    state_of,
)
from serving.control.store.database import Database, sqlite_url
from serving.control.store.tables import GENERATIONS

STATES: tuple[GenerationState, ...] = get_args(GenerationState)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with one generation."""
    opened = Database(sqlite_url(Path(tmp_path_factory.mktemp("changes")) / "state.db"))
    with opened.write() as transaction:
        ensure_variant(transaction, "int8")
        add_generation(transaction, "int8", "building", "[]")
    yield opened
    opened.close()


def test_the_table_has_every_state() -> None:
    assert set(TRANSITIONS) == set(STATES)


@pytest.mark.parametrize("former", STATES)
@pytest.mark.parametrize("state", STATES)
def test_a_generation_moves_only_as_the_table_says(
    database: Database, former: GenerationState, state: GenerationState
) -> None:
    with database.write() as transaction:
        transaction.connection.execute(update(GENERATIONS).values(state=former))
        if state in TRANSITIONS[former]:
            assert move(transaction, "int8", 1, state) == former
            assert state_of(transaction, "int8", 1) == state
        else:
            with pytest.raises(IllegalTransition, match=f"int8@1 is {former} and cannot become"):
                move(transaction, "int8", 1, state)
            assert state_of(transaction, "int8", 1) == former


def test_a_generation_that_does_not_exist_cannot_move(database: Database) -> None:
    with database.write() as transaction, pytest.raises(IllegalTransition, match="no generation 2"):
        move(transaction, "int8", 2, "failed")
