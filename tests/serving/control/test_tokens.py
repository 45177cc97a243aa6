from __future__ import annotations

import hashlib
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.control.settings import Control
from serving.control.state import Scope
from serving.control.tokens import (
    AttemptLimiter,
    Authorizer,
    Token,
    create,
    digest,
    load_or_create,
)
from serving.errors import Forbidden, Overloaded, ServingError, Unauthorized

ADMIN, READ = create(), create()
TOKENS = (
    Token(name="operator", scope="admin", sha256=digest(ADMIN)),
    Token(name="monitor", scope="read", sha256=digest(READ)),
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> AttemptLimiter:
    return AttemptLimiter(attempts=3, window_s=60, addresses=2, clock=clock)


def test_a_token_is_random_and_stored_as_its_sha256() -> None:
    text = create()
    assert len(text) >= 43
    assert text != create()
    assert digest(text) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("header", "scope", "name"),
    [
        pytest.param(f"Bearer {ADMIN}", "admin", "operator", id="admin to change"),
        pytest.param(f"Bearer {ADMIN}", "read", "operator", id="admin to read"),
        pytest.param(f"bearer {ADMIN} ", "admin", "operator", id="lower case"),
        pytest.param(f"Bearer {READ}", "read", "monitor", id="read to read"),
    ],
)
def test_a_token_allows_what_its_scope_says(header: str, scope: Scope, name: str) -> None:
    assert Authorizer(TOKENS).require(header, scope, "10.0.0.1").name == name


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        pytest.param(None, Unauthorized, "this needs a token", id="no header"),
        pytest.param("", Unauthorized, "this needs a token", id="an empty header"),
        pytest.param("Bearer", Unauthorized, "not known", id="no token"),
        pytest.param("Bearer ", Unauthorized, "not known", id="an empty token"),
        pytest.param("Bearer x", Unauthorized, "not known", id="an unknown token"),
        pytest.param(f"Bearer {ADMIN[:-1]}", Unauthorized, "not known", id="a part of a token"),
        pytest.param(f"Bearer {digest(ADMIN)}", Unauthorized, "not known", id="the stored hash"),
        pytest.param(f"Basic {ADMIN}", Unauthorized, "not known", id="another kind"),
        pytest.param("Bearer \udce9é", Unauthorized, "not known", id="bytes that are no text"),
        pytest.param(f"Bearer {READ}", Forbidden, "monitor may only read", id="a smaller scope"),
    ],
)
def test_without_a_token_of_the_scope_nothing_is_allowed(
    header: str | None, error: type[ServingError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        Authorizer(TOKENS).require(header, "admin", "10.0.0.1")
    assert ADMIN not in str(caught.value)


def test_without_tokens_nobody_is_allowed() -> None:
    with pytest.raises(Unauthorized):
        Authorizer(()).require(f"Bearer {ADMIN}", "read", "10.0.0.1")


def test_too_many_failed_attempts_block_the_address_for_a_while(
    limiter: AttemptLimiter, clock: Clock
) -> None:
    failures: list[str] = []
    authorizer = Authorizer(TOKENS, limiter, failures.append)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            authorizer.require("Bearer guess", "admin", "10.0.0.1")
        clock.now += 10
    with pytest.raises(Overloaded, match="too many failed attempts") as caught:
        authorizer.require(f"Bearer {ADMIN}", "admin", "10.0.0.1")
    assert caught.value.retry_after_s == 30
    authorizer.require(f"Bearer {ADMIN}", "admin", "10.0.0.2")
    clock.now += 30
    authorizer.require(f"Bearer {ADMIN}", "admin", "10.0.0.1")
    assert failures == ["10.0.0.1"] * 3


def test_a_request_without_a_token_or_with_a_small_scope_is_no_failed_attempt(
    limiter: AttemptLimiter,
) -> None:
    authorizer = Authorizer(TOKENS, limiter)
    for header in [None, f"Bearer {READ}"] * 5:
        with pytest.raises((Unauthorized, Forbidden)):
            authorizer.require(header, "admin", "10.0.0.1")
    assert limiter.blocked_s("10.0.0.1") == 0


def test_the_limiter_remembers_a_bounded_number_of_addresses(limiter: AttemptLimiter) -> None:
    for address in ("a", "b", "a", "c"):
        for _ in range(3):
            limiter.failed(address)
    assert [limiter.blocked_s(address) > 0 for address in ("a", "b", "c")] == [True, False, True]


def test_two_tokens_cannot_have_the_same_name() -> None:
    with pytest.raises(ValueError, match="must differ, got operator, operator"):
        Authorizer((TOKENS[0], TOKENS[0]))
    with pytest.raises(ValidationError, match="must differ"):
        Control(tokens=(TOKENS[0], TOKENS[0]))


@pytest.mark.parametrize(
    "wrong", [{"sha256": ADMIN}, {"scope": "root"}, {"name": ""}, {"name": "a b"}]
)
def test_a_wrong_token_in_the_settings_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Token.model_validate(TOKENS[0].model_dump() | wrong)


def test_the_first_start_makes_a_token_that_only_the_owner_may_read(tmp_path: Path) -> None:
    file = tmp_path / ".control" / "admin-token"
    token = load_or_create(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (token.name, token.scope) == ("admin", "admin")
    assert token.sha256 == digest(file.read_text().strip())
    assert load_or_create(file) == token
    assert [each.name for each in file.parent.iterdir()] == ["admin-token"]


def test_of_several_gateways_that_start_at_once_one_makes_the_token(tmp_path: Path) -> None:
    file = tmp_path / "admin-token"
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: load_or_create(file), range(8)))
    assert len({token.sha256 for token in tokens}) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["admin-token"]


def test_an_empty_file_is_no_token(tmp_path: Path) -> None:
    file = tmp_path / "admin-token"
    file.touch(0o600)
    with pytest.raises(ValueError, match="is empty: delete it"):
        load_or_create(file)


def test_a_file_that_others_may_read_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "admin-token"
    load_or_create(file)
    assert caplog.records == []
    file.chmod(0o640)
    with caplog.at_level(logging.WARNING):
        load_or_create(file)
    assert f"chmod 600 {file}" in caplog.text
