"""What replicas tell about themselves, over Serve. Imports no ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostDescription:
    """What a host replica tells a gateway about itself. Memory is in bytes."""

    address: str
    pid: int
    resident_bytes: int
    gpu_memory_bytes: int | None


@dataclass(frozen=True)
class Ports:
    """Where a gateway listens."""

    http: int
    grpc: int
