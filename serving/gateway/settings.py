"""What can be configured, read once into one frozen object.

    environment (PARETOSERVE_HTTP__PORT=8001) > config file (paretoserve.yaml) > the defaults here

The config file is the one named by PARETOSERVE_CONFIG, else ./paretoserve.yaml if there is one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serving.errors import InvalidRequest
from serving.experiment.assignment import Experiment
from serving.routing.policy import POLICIES
from serving.routing.slo import PARAMETERS, Slo
from serving.routing.slo import parse as parse_slo
from variants.catalog.record import Record

CONFIG_VARIABLE: Final = "PARETOSERVE_CONFIG"
CONFIG_FILE: Final = "paretoserve.yaml"


class Http(Record):
    """Where the gateway listens for HTTP."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes a free port."""


class Grpc(Record):
    """Where the gateway listens for gRPC."""

    host: str = "127.0.0.1"
    port: int = Field(default=9000, ge=0, le=65535)
    """0 takes a free port."""


class Hosts(Record):
    """The replicas of every variant."""

    replicas: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    """CPUs, and so compute threads, of one replica."""
    slots: int = Field(default=1, ge=1)
    """Batches that a gateway sends to one replica at a time."""
    cores: int | None = Field(default=None, ge=1)
    """Batches that all hosts together run at once without slowing each other, where they share
    CPUs; none: each has its own, as Ray reserves them."""
    bind: str = "127.0.0.1"
    """Address that a host listens on for gateways; `node` is that of its node in the cluster."""


class Limits(Record):
    """What a gateway refuses."""

    batch_size: int = Field(default=64, ge=1)
    """Samples in one batch, and so in one request."""
    queue_length: int = Field(default=2000, ge=1)
    lanes: int = Field(default=64, ge=1)
    """Requests that differ in shape, or in which variants would do, wait apart: so many kinds at
    once. What a decision of the router costs grows with them."""
    body_bytes: int = Field(default=8 * 2**20, ge=1)
    """Of one request: an HTTP body, as sent and as decompressed, or one gRPC message.

    JSON is parsed on the gateway's one loop: 8 MiB of it hold it for 0.5 s.
    """
    header_bytes: int = Field(default=64 * 1024, ge=1024)
    """Of one HTTP request line and headers together."""
    stream_requests: int = Field(default=64, ge=1)
    """Requests of one gRPC stream that are answered at a time; more are not read before."""


class Settings(BaseSettings):
    """Everything that a service can be told."""

    model_config = SettingsConfigDict(
        env_prefix="PARETOSERVE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
    )

    catalog: Path = Path("catalog")
    variants: tuple[str, ...] = ()
    """Which of the catalog's variants to serve; none named means all."""
    policy: str = "pareto"
    http: Http = Http()
    grpc: Grpc = Grpc()
    hosts: Hosts = Hosts()
    limits: Limits = Limits()
    default_slo: dict[str, Any] = Field(default_factory=dict)
    """What a request gets that does not say: request parameters, as in the protocol."""
    experiment: Experiment | None = None
    drain_s: float = Field(default=10.0, ge=0)
    """How long a gateway that is shut down waits for the requests it has."""

    @field_validator("default_slo")
    @classmethod
    def _default_slo_is_valid(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        unknown = set(parameters) - set(PARAMETERS)
        if unknown:
            known = ", ".join(sorted(PARAMETERS))
            raise ValueError(f"unknown {', '.join(sorted(unknown))}; known: {known}")
        try:
            parse_slo(parameters, {}, Slo())
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
        return parameters

    @field_validator("policy")
    @classmethod
    def _policy_is_known(cls, name: str) -> str:
        if name not in POLICIES:
            raise ValueError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
        return name

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.http.port == self.grpc.port != 0:
            raise ValueError(
                f"HTTP and gRPC cannot both listen on port {self.http.port}; give another with "
                "--port or --grpc-port, PARETOSERVE_HTTP__PORT or PARETOSERVE_GRPC__PORT"
            )
        return self

    @property
    def slo(self) -> Slo:
        """The SLO of a request that asks for nothing."""
        return parse_slo(self.default_slo, {}, Slo())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the config file below the environment."""
        file_settings = InitSettingsSource(settings_cls, _read_config_file())
        return init_settings, env_settings, file_settings


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` win over everything.

    Raises `ValueError` that names the setting and what it may be.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named and not Path(named).is_file():
        raise ValueError(f"{CONFIG_VARIABLE} names {named}, which is no file")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            ": ".join(filter(None, [".".join(map(str, item["loc"])), _said(item["msg"])]))
            for item in error.errors()
        ]
        raise ValueError("the settings are wrong: " + "; ".join(lines)) from None


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")


def _read_config_file() -> dict[str, Any]:
    path = Path(os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE)
    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(settings, dict | None):
        raise ValueError(f"{path} must hold settings by name")
    return settings or {}
