"""What a gateway needs to let its service be changed, put together from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from serving.control.api.administration import Administration
from serving.control.api.preview import preview_build
from serving.control.api.service import Rules
from serving.control.recipes import check_recipe
from serving.control.settings import FOLDER
from serving.control.store.store import Store
from serving.control.tokens import FILE, Token, load_or_create
from serving.gateway.settings import Settings
from serving.routing.attainability import attainable_variants
from serving.routing.generation import variant_name
from serving.routing.profile import VariantProfile, qualifying
from serving.routing.slo import Slo
from variants.catalog.hardware import hardware
from variants.catalog.storage import open_storage

ENVELOPE_BYTES: Final = 4096
"""Maximum size of what an admin request has besides a recipe."""


def token_file(catalog: Path) -> Path:
    """Return the path of the token that the first start makes."""
    return catalog / FOLDER / FILE


def service_tokens(settings: Settings) -> tuple[Token, ...]:
    """Return the tokens of the settings, else the one in the file, which is made if necessary.

    Raises `ValueError` if the file is empty.
    """
    if settings.control.tokens:
        return settings.control.tokens
    return (load_or_create(token_file(settings.catalog)),)


def administration(
    settings: Settings,
    store: Store,
    model: str,
    profiles: Callable[[], Mapping[str, VariantProfile]],
    best_case_s: Callable[[str, int], float],
) -> Administration:
    """Return the administration of a gateway.

    `profiles` returns those of the variants that are served, and `best_case_s` the least time, in
    seconds, that a variant, given by its routing key, takes for a batch of a size.
    """
    hardware_key = hardware(settings.hosts.cpus, settings.hosts.device).key
    rules = Rules(
        check_recipe=partial(check_recipe, limits=settings.builder),
        preview=partial(
            preview_build,
            store=store,
            catalog=settings.catalog,
            hardware_key=hardware_key,
            gate=settings.gate,
        ),
        meeting_default_slo=lambda: variants_meeting(settings.slo, profiles(), best_case_s),
    )
    return Administration(
        model,
        store,
        settings.catalog,
        settings.project,
        hardware_key,
        service_tokens(settings),
        rules,
        max_body_bytes=settings.builder.max_recipe_bytes + ENVELOPE_BYTES,
        poll_s=settings.control.poll_s,
        is_inference_open=settings.control.open_inference,
        storage=open_storage(settings.artifacts),
    )


def variants_meeting(
    slo: Slo,
    profiles: Mapping[str, VariantProfile],
    best_case_s: Callable[[str, int], float],
) -> list[str]:
    """Return the variants that can answer one sample within an SLO when the service is idle."""
    keys = [profiles[name].key for name in qualifying(profiles, slo) if name in profiles]
    return [variant_name(key) for key in attainable_variants(keys, 1, slo.latency_s, best_case_s)]
