from __future__ import annotations

import socket
import warnings

import pytest

from serving.gateway.settings import Settings


@pytest.mark.parametrize(
    ("hosts", "usable", "expected"),
    [
        pytest.param({}, 4, 3, id="all CPUs but that of the gateway"),
        pytest.param({"cpus": 2}, 6, 2, id="hosts with two CPUs"),
        pytest.param({"cpus": 8}, 2, 1, id="at least one core"),
        pytest.param({"cores": 3}, 16, 3, id="the setting has precedence"),
    ],
)
def test_hosts_on_one_machine_share_its_cpus(
    hosts: dict[str, int], usable: int, expected: int
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of ray
        from serving.cluster.start import share_cpus

    settings = Settings.model_validate({"hosts": hosts})
    shared = share_cpus(settings, usable)
    assert shared.hosts.cores == expected
    assert shared.hosts.cpus == settings.hosts.cpus


def test_a_free_port_is_chosen_once_in_place_of_0() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of ray
        from serving.cluster.start import choose_ports
        from serving.cluster.start_failure import NotStarted

    any_free = Settings.model_validate({"http": {"port": 0}, "grpc": {"port": 0}})
    chosen = choose_ports(any_free)
    assert 0 not in (chosen.http.port, chosen.grpc.port)
    assert chosen.http.port != chosen.grpc.port
    assert choose_ports(chosen) == chosen
    with (
        socket.create_server(("127.0.0.1", chosen.grpc.port)),
        pytest.raises(NotStarted, match="another port with --grpc-port"),
    ):
        choose_ports(chosen)


@pytest.mark.parametrize(("in_gateway", "cpus"), [((), 1), ("all", 4)])
def test_the_gateway_reserves_the_cpus_of_what_it_computes(in_gateway: object, cpus: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of ray
        from serving.cluster.apps import gateway_app

    settings = Settings.model_validate({"hosts": {"in_gateway": in_gateway, "cores": 3}})
    options = gateway_app(settings)._bound_deployment.ray_actor_options
    assert options is not None
    assert options["num_cpus"] == cpus
