"""The releases this process can answer with: those the aliases point at, loaded before they are needed where that can be known.

A request asks `current`, which reads the alias each time: after a rollback has returned, no request is given the release from
before. Releases with the same model and engine settings share one engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from lab.engines.http.asked import Refusal
from lab.errors import LabError
from lab.ops import versions
from lab.ops.gateway.backends import Backend, Deliver, open_backend
from lab.ops.gateway.serving import Serving, unavailable
from lab.ops.gateway.settings import GatewaySettings
from lab.ops.rollouts import Live, Rollout
from lab.ops.versions import Pointer, Release
from lab.ops.versions.state import Alias
from lab.safety import Chain

AGAIN_S = 5.0
"""A release that could not be loaded is tried again after this long."""
FOLLOW_S = 0.5


@dataclass(eq=False)
class _Opened:
    """A backend and how many loaded releases use it."""

    backend: Backend
    users: int = 0


class Loaded:
    """Follows the aliases. All methods are for the event loop; loading happens beside it, one release after the other."""

    def __init__(self, settings: GatewaySettings, deliver: Deliver, *, pointer: Pointer | None = None) -> None:
        self._settings, self._deliver = settings, deliver
        self.pointer = pointer or Pointer(cast(Alias, settings.alias))
        self.live = Live()
        self.servings: dict[str, Serving] = {}
        self._backends: dict[str, _Opened] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self.failed: dict[str, tuple[str, float]] = {}
        """Why a release could not be loaded, and when that was."""
        self._numbers: dict[int, Release] = {}
        self._one = asyncio.Lock()

    def now(self) -> Serving | None:
        """The release to answer with, if it is loaded. Raises `Refusal` when there is none to answer with."""
        return self.servings.get(self._release().digest)

    async def current(self) -> Serving:
        """The release to answer with, waited for while it is being loaded. Raises `Refusal`."""
        until = time.monotonic() + self._settings.load_s
        while True:
            release = self._release()
            found = self.servings.get(release.digest)
            if found is not None:
                return found
            why, at = self.failed.get(release.digest, ("", 0.0))
            if why and time.monotonic() - at < AGAIN_S:
                raise unavailable(LabError(f"{release.title} cannot answer: {why}"))
            task = self._load(release)
            done, _ = await asyncio.wait([task], timeout=max(0.0, until - time.monotonic()))
            if not done:
                raise unavailable(LabError(f"{release.title} is still being loaded; ask again in some seconds."))

    def rollout(self) -> Rollout | None:
        """The rollout that is on for those who are answered by production."""
        return self.live.of(self.pointer.state) if self._settings.alias == "production" else None

    def candidate(self) -> Serving | None:
        """The candidate, if it is loaded."""
        release = self._numbers.get(self.pointer.state.candidate or 0)
        return self.servings.get(release.digest) if release is not None else None

    async def follow(self) -> None:
        """Keep loaded what the aliases point at, until cancelled."""
        while True:
            with contextlib.suppress(LabError, Refusal):
                await self._round()
            await asyncio.sleep(FOLLOW_S)

    def close(self) -> None:
        self.pointer.close()
        for opened in self._backends.values():
            opened.backend.close()

    def _release(self) -> Release:
        try:
            return self.pointer.current()
        except LabError as error:
            raise unavailable(error) from error

    async def _round(self) -> None:
        state = self.pointer.state
        wanted = {number for number in (state.production, state.previous, state.candidate) if number is not None}
        for number in wanted - set(self._numbers):
            with contextlib.suppress(LabError):
                self._numbers[number] = await asyncio.to_thread(versions.numbered, number)
        kept = set()
        for number in wanted & set(self._numbers):
            release = self._numbers[number]
            kept.add(release.digest)
            failed_at = self.failed.get(release.digest, ("", -AGAIN_S))[1]
            if release.digest not in self.servings and time.monotonic() - failed_at >= AGAIN_S:
                self._load(release)
        with contextlib.suppress(Refusal):
            kept.add(self._release().digest)
        for digest, serving in list(self.servings.items()):
            if digest not in kept and not serving.open:
                self._drop(self.servings.pop(digest))

    def _load(self, release: Release) -> asyncio.Task[None]:
        task = self._loading.get(release.digest)
        if task is None:
            task = self._loading[release.digest] = asyncio.create_task(self._loaded(release))
        return task

    async def _loaded(self, release: Release) -> None:
        try:
            async with self._one:
                self.servings[release.digest] = await asyncio.to_thread(self._made, release)
            gc.freeze()  # see `keep_loaded`; collecting first would hold the streams that are open
            self.failed.pop(release.digest, None)
        except Exception as error:  # the gateway goes on with what it has, and says why
            said = str(error) if isinstance(error, LabError) else f"loading it failed ({type(error).__name__}: {error})."
            self.failed[release.digest] = said, time.monotonic()
        finally:
            del self._loading[release.digest]

    def _made(self, release: Release) -> Serving:
        resolved = versions.load(release)
        chain = Chain(resolved.policy)
        backend = self._backend(release, resolved.model)
        return Serving(resolved=resolved, chain=chain, backend=backend, index=resolved.open_index())

    def _backend(self, release: Release, model: str) -> Backend:
        name = _engine(release, model)
        opened = self._backends.get(name)
        if opened is None:
            how = self._settings
            opened = self._backends[name] = _Opened(open_backend(
                release.engine, model, _settings(release), self._deliver, running=how.running, queue=how.queue,
                threads=how.threads, fallbacks=how.fallbacks, first_s=how.first_s))
        opened.users += 1
        return opened.backend

    def _drop(self, serving: Serving) -> None:
        name = _engine(serving.resolved.release, serving.resolved.model)
        opened = self._backends[name]
        opened.users -= 1
        if not opened.users:
            del self._backends[name]
            asyncio.get_running_loop().run_in_executor(None, opened.backend.close)


def _engine(release: Release, model: str) -> str:
    return json.dumps([release.engine, model, release.model.sha256, _settings(release)], sort_keys=True)


def _settings(release: Release) -> Mapping[str, str | int | float | bool | None]:
    return dict(release.engine_settings)
