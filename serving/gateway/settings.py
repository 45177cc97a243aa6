"""The settings of a service, read once into a frozen object.

    environment (PARETOSERVE_HTTP__PORT=8001) > config file (paretoserve.yaml) > the defaults here

The config file is the one that PARETOSERVE_CONFIG names, else ./paretoserve.yaml if it exists.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serving.control.settings import Builder, Control, Gate
from serving.errors import InvalidRequest
from serving.experiment.assignment import Experiment
from serving.routing.policy import POLICIES
from serving.routing.slo import PARAMETERS, Slo
from serving.routing.slo import parse as parse_slo
from variants.catalog.device import Device, is_gpu
from variants.catalog.document import Document
from variants.catalog.record import Record
from variants.catalog.words import plain

CONFIG_VARIABLE: Final = "PARETOSERVE_CONFIG"
CONFIG_FILE: Final = "paretoserve.yaml"


class Http(Record):
    """The HTTP listener of the gateway."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 means any free port."""


class Grpc(Record):
    """The gRPC listener of the gateway."""

    host: str = "127.0.0.1"
    port: int = Field(default=9000, ge=0, le=65535)
    """0 means any free port."""


class Hosts(Record):
    """The host replicas of every variant."""

    replicas: int = Field(default=1, ge=1)
    replicas_per_node: int | None = Field(default=None, ge=1)
    """Most replicas of one variant on one node of the cluster; None means any number."""
    cpus: int = Field(default=1, ge=1)
    """CPUs, and therefore compute threads, of one replica."""
    device: Device = "cpu"
    """Where the replicas compute; `tensorrt` is for ONNX variants, torch ones run on CUDA there."""
    gpus: float = Field(default=0.125, gt=0)
    """GPUs that Ray reserves for one replica if `device` is a GPU; below 1, replicas share one."""
    slots: int = Field(default=1, ge=1)
    """Batches that a gateway has in flight to one replica at a time."""
    cores: int | None = Field(default=None, ge=1)
    """Batches that all hosts together can run at a time without slowing each other down, if they
    share CPUs. None means that each host has its own CPUs, as Ray reserves them."""
    spare: bool = True
    """Whether each node with hosts keeps a process that has imported what a host needs, so that
    the next host starts at once."""
    bind: str = "127.0.0.1"
    """Address on which a host listens for gateways; `node` means that of its cluster node."""
    in_gateway: Literal["all"] | tuple[str, ...] = ()
    """Variants that have no hosts: every gateway loads and computes them in its own process."""

    @field_validator("in_gateway", mode="before")
    @classmethod
    def _in_gateway_is_all_or_a_list(cls, value: object) -> object:
        if isinstance(value, str) and value != "all":
            raise ValueError(f"{value!r}; give `all`, or a list of variants such as [{value}]")
        return value

    @field_validator("gpus")
    @classmethod
    def _gpus_are_whole_or_a_share(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError(f"{gpus} GPUs; give a whole number, or a share of one below 1")
        return gpus

    @model_validator(mode="after")
    def _gateways_can_compute(self) -> Self:
        if self.in_gateway and is_gpu(self.device):
            raise ValueError(
                f"gateways compute on the CPU, not on {self.device}; leave in_gateway empty, or "
                "set device to cpu"
            )
        if self.in_gateway == "all" and self.replicas > 1:
            raise ValueError(
                f"replicas is {self.replicas}, but all variants are computed in the gateway, once "
                "each; set replicas to 1, or name the variants in in_gateway"
            )
        return self

    @property
    def reserved_gpus(self) -> float:
        """GPUs that Ray reserves for one replica."""
        return self.gpus if is_gpu(self.device) else 0.0

    def is_in_gateway(self, variant: str) -> bool:
        """Return whether gateways compute a variant themselves."""
        return self.in_gateway == "all" or variant in self.in_gateway

    @property
    def parallel_batches(self) -> float:
        """Batches that can run at a time without slowing each other down; perhaps infinity."""
        if self.cores is not None:
            return self.cores
        # Ray reserves CPUs for hosts, and for as many threads of a gateway as are known.
        return 1 if self.in_gateway == "all" else math.inf

    @property
    def gateway_cpus(self) -> int:
        """CPUs that Ray reserves for a gateway: one, and those of what it computes itself."""
        batches = (self.cores or 1) if self.in_gateway == "all" else len(self.in_gateway)
        return 1 + self.cpus * batches


class Limits(Record):
    """Limits beyond which a gateway refuses requests."""

    batch_size: int = Field(default=64, ge=1)
    """Maximum number of samples in one batch, and therefore in one request."""
    queue_length: int = Field(default=2000, ge=1)
    """Maximum number of requests in the queue."""
    lanes: int = Field(default=64, ge=1)
    """Maximum number of lanes in the queue. Requests that differ in shape or in qualifying variants
    are queued in different lanes. The cost of a routing decision grows with their number."""
    body_bytes: int = Field(default=8 * 2**20, ge=1)
    """Maximum size of one request: an HTTP body, as sent and as decompressed, or a gRPC message.

    JSON is parsed on the event loop of the gateway: 8 MiB block it for up to 0.5 s
    if a dimension of the model is variable.
    """
    total_body_bytes: int = Field(default=256 * 2**20, ge=1)
    """Maximum size of all requests together that are being read, wait, or are computed."""
    header_bytes: int = Field(default=64 * 1024, ge=1024)
    """Maximum size of an HTTP request line and its headers together."""
    stream_requests: int = Field(default=64, ge=1)
    """Maximum number of requests of one gRPC stream in progress. At the limit, no request is read
    until one is answered."""

    @model_validator(mode="after")
    def _a_body_fits(self) -> Self:
        if self.total_body_bytes < self.body_bytes:
            raise ValueError(
                f"total_body_bytes is {self.total_body_bytes}, so that no request of body_bytes, "
                f"{self.body_bytes}, could be received; make it larger"
            )
        return self


class Settings(BaseSettings):
    """All settings of a service."""

    model_config = SettingsConfigDict(
        env_prefix="PARETOSERVE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
    )

    catalog: Path = Path("catalog")
    project: Path | None = None
    """The project file with which variants are built while the service runs."""
    artifacts: str | None = None
    """URL of fsspec under which generations are copied, for nodes that do not have the catalog."""
    variants: tuple[str, ...] = ()
    """The variants of the catalog to serve; empty means all."""
    policy: str = "pareto"
    accuracy_margin: float = Field(default=0.0, ge=0, le=1)
    """Difference in accuracy up to which two variants count as equally accurate for routing. With
    0, they do if their paired 95 % interval contains 0."""
    http: Http = Http()
    grpc: Grpc = Grpc()
    hosts: Hosts = Hosts()
    limits: Limits = Limits()
    default_slo: dict[str, Any] = Field(default_factory=dict)
    """Parameters of requests that do not set them, with the names of the protocol."""
    experiment: Experiment | None = None
    control: Control = Control()
    gate: Gate = Gate()
    builder: Builder = Builder()
    drain_s: float = Field(default=10.0, ge=0)
    """Seconds that a stopping gateway waits for the answers to accepted requests."""

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

    @field_validator("artifacts")
    @classmethod
    def _artifacts_is_a_url(cls, url: str | None) -> str | None:
        if url is not None and not all(url.partition("://")):
            raise ValueError(f"{url!r} is no URL; give one such as s3://bucket/folder")
        return url

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
        """The SLO of a request without parameters."""
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
        """Give the environment precedence over the config file."""
        file_settings = InitSettingsSource(settings_cls, _read_config_file())
        return init_settings, env_settings, file_settings


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` have precedence over all sources.

    Raises `ValueError` that names each wrong setting and its valid values.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named and not Path(named).is_file():
        raise ValueError(f"{CONFIG_VARIABLE} names {named}, which is not a file")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [
            ": ".join(filter(None, [".".join(map(str, item["loc"])), plain(item)]))
            for item in error.errors()
        ]
        raise ValueError("the settings are wrong: " + "; ".join(lines)) from None


def absolute(settings: Settings) -> Settings:
    """Return the settings with absolute paths: processes of Ray have other working directories."""
    project = settings.project
    return settings.model_copy(
        update={
            "catalog": settings.catalog.absolute(),
            "project": None if project is None else project.absolute(),
        }
    )


def _read_config_file() -> dict[str, Any]:
    path = Path(os.environ.get(CONFIG_VARIABLE) or CONFIG_FILE)
    if not path.is_file():
        return {}
    try:
        settings = Document(path.read_text()).content
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(settings, dict | None):
        raise ValueError(f"{path} must be a mapping from names to settings")
    return settings or {}
