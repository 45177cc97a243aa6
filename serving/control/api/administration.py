"""The admin API and the repository extension of one gateway, put together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from serving.control.api.application import AdminApplication, Authorize
from serving.control.api.events import Streams
from serving.control.api.openapi import extend_openapi
from serving.control.api.repository import VariantRepository
from serving.control.api.service import VariantService
from serving.control.api.sources import Sources
from serving.control.api.threads import BlockingCalls
from serving.control.api.views import Preview
from serving.control.store.store import Store
from serving.protocol.control import Caller, Control
from variants.catalog.recipe import Recipe


@dataclass(frozen=True)
class Rules:
    """What the admin API asks others about."""

    authorize: Authorize
    check_recipe: Callable[[Recipe], None]
    """Raises `InvalidRequest` for a recipe that may not be built."""
    preview: Callable[[str, Recipe], Preview]
    """Returns what it would take to build a recipe under the name of a variant."""
    meeting_default_slo: Callable[[], Collection[str]]
    """Returns the served variants that meet the default SLO."""
    check_inference: Callable[[Caller], None] | None = None
    """Raises `Unauthorized` for a caller that may not send inference requests; None if all may."""


class Administration:
    """What changes the variants of a service, from one gateway in the running event loop."""

    def __init__(
        self,
        model: str,
        store: Store,
        catalog: Path,
        project: Path | None,
        hardware_key: str,
        rules: Rules,
        *,
        max_body_bytes: int,
        poll_s: float,
    ) -> None:
        """`model` is the name of the model, and `project` the project file for builds, if any.

        A request may have `max_body_bytes`. Jobs are looked at every `poll_s` seconds.
        """
        self._is_stopping = False
        self._call = BlockingCalls()
        service = VariantService(
            store,
            Sources(store, catalog, project),
            catalog,
            hardware_key,
            rules.check_recipe,
            rules.preview,
            rules.meeting_default_slo,
        )
        streams = Streams(service, self._call, poll_s, lambda: self._is_stopping)
        self.control = Control(
            admin=AdminApplication(
                service, rules.authorize, self._call, streams, max_body_bytes=max_body_bytes
            ),
            repository=VariantRepository(model, service, rules.authorize, self._call, poll_s),
            extend_openapi=extend_openapi,
            check_inference=rules.check_inference,
        )

    def stop(self) -> None:
        """End the event streams."""
        self._is_stopping = True

    def close(self) -> None:
        """Start no more calls of the database."""
        self._call.close()
