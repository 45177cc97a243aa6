"""The repository extension of V2: variants are loaded and unloaded like models of Triton.

`load` and `unload` submit the same jobs as the admin API, and wait for their end. A caller that
gives up does not end the job; a caller that asks again waits for the same job.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from serving.control.api.application import Authorize
from serving.control.api.bodies import Addition, Replacement, parse_body
from serving.control.api.overview import Overview
from serving.control.api.service import VariantService
from serving.control.api.threads import BlockingCalls
from serving.control.state import ENDED, Job, VariantRecord
from serving.control.store.submissions import Origin
from serving.errors import Conflict, InvalidRequest, NotReady, Unsupported, shorten
from serving.protocol.control import Caller

CONFIG: Final = "config"
"""Parameter of `load`: a recipe as JSON."""

UNLOADED_MAX_AGE_S: Final = 0.5
"""Age, in seconds, up to which the index is not read again."""

SUBMISSIONS: Final = 3
"""How often `load` is tried while jobs that were in its way end."""

FILE_PREFIX: Final = "file:"
"""Beginning of the parameters of `load` that are files of Triton's model repository."""


class VariantRepository:
    """The variants of a service as a model repository."""

    def __init__(
        self,
        model: str,
        service: VariantService,
        overview: Overview,
        authorize: Authorize,
        call: BlockingCalls,
        poll_s: float,
    ) -> None:
        """`model` is the name of the model whose variants these are."""
        self._model = model
        self._service = service
        self._overview = overview
        self._authorize = authorize
        self._call = call
        self._poll_s = poll_s
        self._unloaded: asyncio.Future[Mapping[str, str]] | None = None
        """What `unloaded` returns, from `_unloaded_at` on."""
        self._unloaded_at = -math.inf

    def authorize(self, caller: Caller) -> str:
        """Return the name of the caller's token, which has the scope `admin`. See `Repository`."""
        return self._authorize(caller, "admin")

    async def load(self, name: str, parameters: Mapping[str, Any], actor: str) -> None:
        """Publish a variant, and return once it gets requests. See `Repository`."""
        recipe = _recipe(parameters)
        self._check_name(name)
        job = await self._call(self._submit_load, name, recipe, Origin(actor))
        if job is not None:
            await self._wait(job)

    async def unload(self, name: str, actor: str) -> None:
        """Remove a variant, and return once it has no hosts any more. See `Repository`."""
        self._check_name(name)
        job = await self._call(
            self._submit_unload, name, Origin(actor), self._service.meeting_slo()
        )
        if job is not None:
            await self._wait(job)

    async def unloaded(self) -> Mapping[str, str]:
        """Return the variants on disk that are not served, with the reason. See `Repository`.

        The index needs no token, so the state is read at most once in `UNLOADED_MAX_AGE_S`,
        however often it is called. Without the state, the index has only what is served.
        """
        now = asyncio.get_running_loop().time()
        if self._unloaded is None or now - self._unloaded_at > UNLOADED_MAX_AGE_S:
            self._unloaded_at = now
            self._unloaded = asyncio.ensure_future(self._call(self._service.unloaded))
        try:
            return await asyncio.shield(self._unloaded)
        except NotReady:
            return {}

    def _check_name(self, name: str) -> None:
        if name == self._model:
            raise InvalidRequest(
                f"{name} is the model, which is always loaded; load and unload its variants, "
                "by their names"
            )

    def _submit_load(self, name: str, recipe: Any, origin: Origin) -> Job | None:
        """Submit what makes the variant served; return None if nothing is to be done.

        A job in progress that does the same is returned, also one that was just submitted.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                return self._active_load(name, recipe) or self._new_load(name, recipe, origin)
            except Conflict:
                if (same := self._active_load(name, recipe)) is not None:
                    return same
                # If no job is active any more, the one that was in the way has just ended.
                if attempts == SUBMISSIONS or self._service.find(name)[1] is not None:
                    raise

    def _active_load(self, name: str, recipe: Any) -> Job | None:
        _, active = self._service.find(name)
        if active is None or active.kind == "remove":
            return None
        return active if recipe in (None, _as_json(active.recipe or ())) else None

    def _new_load(self, name: str, recipe: Any, origin: Origin) -> Job | None:
        record, _ = self._service.find(name)
        served = _served_recipe(record)
        if served is None:
            body = parse_body(Addition, orjson.dumps({"name": name, "recipe": recipe}))
            return _job(self._service.add(body, origin))
        if recipe is None and not self._service.has_new_artifact(name):
            return None
        if recipe == served:
            return None
        replacement = parse_body(Replacement, orjson.dumps({"recipe": recipe}))
        return _job(self._service.replace(name, replacement, origin))

    def _submit_unload(self, name: str, origin: Origin, meeting_slo: Collection[str]) -> Job | None:
        record, active = self._service.find(name)
        if record is None:
            self._overview.variant(name)  # raises ModelNotFound
        if active is not None and active.kind == "remove":
            return active
        if record is not None and record.published is None and active is None:
            return None
        return self._service.remove(name, origin, meeting_slo, force=False, reason=None)

    async def _wait(self, job: Job) -> None:
        while job.status not in ENDED:
            await asyncio.sleep(self._poll_s)
            job = await self._call(self._overview.job, job.id)
        self._unloaded = None  # the index shows at once what has just changed
        if job.status != "succeeded":
            raise Conflict(
                f"job {job.id} was {_PAST[job.status]}: {job.error or 'without a cause'}"
            )


_PAST: Final = {
    "failed": "not successful",
    "rejected": "rejected by the gate",
    "cancelled": "cancelled",
}


def _job(submitted: object) -> Job:
    assert isinstance(submitted, Job)  # nothing else is returned without `dry_run`
    return submitted


def _recipe(parameters: Mapping[str, Any]) -> Any:
    """Return the recipe in the parameters of `load`, or None. It is checked later."""
    if any(name.startswith(FILE_PREFIX) for name in parameters):
        raise Unsupported(
            "variants are made from recipes, not from files: send the recipe as `config`"
        )
    unknown = [name for name in parameters if name != CONFIG]
    if unknown:
        raise InvalidRequest(
            f"load has no parameter {shorten(unknown[0])}; it has `config`, a recipe as JSON"
        )
    config = parameters.get(CONFIG)
    if config is None:
        return None
    try:
        recipe = orjson.loads(config)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise InvalidRequest(f"`config` must be a recipe as JSON: {error}") from None
    if isinstance(recipe, dict) and set(recipe) == {"recipe"}:
        recipe = recipe["recipe"]
    if isinstance(recipe, list):
        body = parse_body(Replacement, orjson.dumps({"recipe": recipe}))
        return _as_json(body.recipe)
    if not isinstance(recipe, str):
        raise InvalidRequest(
            "`config` must be a recipe as JSON: a list of steps, or the name of a recipe of the "
            "project file"
        )
    return recipe


def _served_recipe(record: VariantRecord | None) -> Any:
    """Return the recipe of the published generation as JSON, or None if there is none."""
    if record is None or record.published is None:
        return None
    generation = next(each for each in record.generations if each.number == record.published)
    return _as_json(generation.recipe)


def _as_json(recipe: object) -> Any:
    """Return a recipe as JSON with all defaults, so that equal recipes are equal."""
    assert isinstance(recipe, tuple)
    return [step.model_dump(mode="json") for step in recipe]
