"""The admin API and the repository extension of one gateway, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serving.control.api.access import Access
from serving.control.api.application import AdminApplication
from serving.control.api.events import Streams
from serving.control.api.openapi import extend_openapi
from serving.control.api.overview import Overview
from serving.control.api.repository import VariantRepository
from serving.control.api.service import Rules, VariantService
from serving.control.api.sources import Sources
from serving.control.api.threads import BlockingCalls
from serving.control.store.store import Store
from serving.control.tokens import Token
from serving.protocol.control import Control
from variants.catalog.storage import Storage


class Administration:
    """What changes the variants of a service, from one gateway in the running event loop."""

    def __init__(
        self,
        model: str,
        store: Store,
        catalog: Path,
        project: Path | None,
        hardware_key: str,
        tokens: Sequence[Token],
        rules: Rules,
        *,
        max_body_bytes: int,
        poll_s: float,
        is_inference_open: bool,
        storage: Storage | None = None,
    ) -> None:
        """`model` is the name of the model, and `project` the project file for builds, if any.

        A request may have `max_body_bytes`. Jobs are looked at every `poll_s` seconds. Unless
        `is_inference_open`, inference needs a token too. `storage` gets copies of new generations.
        """
        self._is_stopping = False
        self._call = BlockingCalls()
        access = Access(tokens, store, self._call)
        sources = Sources(store, catalog, project, storage)
        service = VariantService(store, sources, rules)
        overview = Overview(store, catalog, hardware_key)
        streams = Streams(overview, self._call, poll_s, lambda: self._is_stopping)
        self.control = Control(
            admin=AdminApplication(
                service,
                overview,
                access.authorize,
                self._call,
                streams,
                max_body_bytes=max_body_bytes,
            ),
            repository=VariantRepository(
                model, service, overview, access.authorize, self._call, poll_s
            ),
            max_body_bytes=2 * max_body_bytes,
            extend_openapi=extend_openapi,
            check_inference=None if is_inference_open else access.check_inference,
        )

    def stop(self) -> None:
        """End the event streams."""
        self._is_stopping = True

    def close(self) -> None:
        """Start no more calls of the database."""
        self._call.close()
