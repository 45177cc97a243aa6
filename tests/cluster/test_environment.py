from __future__ import annotations

import os

import pytest

from serving.cluster.environment import set_token


def test_the_token_of_a_cluster_is_new_and_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "inherited")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere")
    set_token()
    first = os.environ["RAY_AUTH_TOKEN"]
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert first != "inherited"
    set_token()
    assert os.environ["RAY_AUTH_TOKEN"] != first
