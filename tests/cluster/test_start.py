from __future__ import annotations

import warnings

import pytest

from serving.gateway.settings import Settings


@pytest.mark.parametrize(
    ("hosts", "usable", "expected"),
    [
        pytest.param({}, 4, 3, id="as many as the gateway leaves"),
        pytest.param({"cpus": 2}, 6, 2, id="batches that take two each"),
        pytest.param({"cpus": 8}, 2, 1, id="at least one"),
        pytest.param({"cores": 3}, 16, 3, id="as it was set"),
    ],
)
def test_hosts_on_one_machine_share_its_cpus(
    hosts: dict[str, int], usable: int, expected: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of ray are not ours to mend
        from serving.cluster.start import sharing_cpus

    settings = Settings.model_validate({"hosts": hosts})
    found = sharing_cpus(settings, usable)
    assert found.hosts.cores == expected
    assert found.hosts.cpus == settings.hosts.cpus
