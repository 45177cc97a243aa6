"""The data that replicas report over Serve. Imports no ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostDescription:
    """The data that a host replica reports to gateways. Memory is in bytes."""

    address: str
    pid: int
    resident_bytes: int
    gpu_memory_bytes: int | None
    provider: str
    """What executes the variant, such as `CUDAExecutionProvider`; see `variants.catalog.device`."""
    digest: str
    """Digest of the files that it has loaded; see `generations.digest`."""
    served_for_s: float
    """Seconds since it computed its first batch for a gateway, 0 if it has computed none."""


@dataclass(frozen=True)
class Ports:
    """The ports on which a gateway listens."""

    http: int
    grpc: int
