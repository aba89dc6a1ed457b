"""What a gateway process looks after beside its requests: answers that take too long, an engine that hangs, a changed key."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from lab.engines.http.asked import Refusal
from lab.errors import LabError
from lab.ops.gateway.exchange import Exchange
from lab.ops.gateway.keys import load

if TYPE_CHECKING:
    from lab.ops.gateway.app import App

SWEEP_S = 0.25


class Sweep:
    """Reads the keys when it is made, raising `LabError` if it cannot; `hung` is called once, when the engine hangs."""

    def __init__(self, app: App, hung: Callable[[], object]) -> None:
        self._app, self._hung = app, hung
        self._keys_read = (0, 0)
        self._read_keys()
        if app.keys_trouble:
            raise LabError(app.keys_trouble)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        app, rounds = self._app, 0
        while True:
            await asyncio.sleep(SWEEP_S)
            rounds += 1
            now = time.perf_counter()
            for exchange in list(app.open.values()):
                if sentence := self._overdue(exchange, now):
                    app.stopped(exchange)
                    exchange.fail(504, "timeout", sentence)
            self._look_at_engine()
            if rounds % 4 == 0:
                self._read_keys()
                app.metrics.leave(app.gauges())

    def _overdue(self, exchange: Exchange, now: float) -> str:
        if exchange.over:
            return ""
        limits = self._app.settings
        if now - exchange.asker.received_s > limits.whole_s:
            return f"The answer was not complete within {limits.whole_s:g} s."
        most = limits.first_s if exchange.waits_for_first else limits.stall_s
        return f"The engine said nothing for {most:g} s." if now - exchange.heard_s > most else ""

    def _look_at_engine(self) -> None:
        """Give up an engine whose step takes longer than any answer may wait for a token."""
        app, serving = self._app, None
        with contextlib.suppress(Refusal):
            serving = app.loaded.now()
        most = max(app.settings.first_s, app.settings.stall_s)
        if serving is None or app.hanging or serving.backend.step_s <= most:
            return
        app.hanging = f"The engine has hung for more than {most:g} s."
        for exchange in list(app.open.values()):
            exchange.fail(504, "engine_hangs", app.hanging)
        self._hung()

    def _read_keys(self) -> None:
        """Read the key file when it has changed; a broken one leaves the keys as they were."""
        app, file = self._app, self._app.settings.keys
        if file is None:
            return
        try:
            stat = file.stat()
            if (stat.st_mtime_ns, stat.st_size) == self._keys_read:
                return
            app.keys = load(file)
            self._keys_read, app.keys_trouble = (stat.st_mtime_ns, stat.st_size), ""
        except OSError as error:
            app.keys_trouble = f"The keys in {file.name} cannot be read ({error.strerror}); those read before go on being good."
        except LabError as error:
            app.keys_trouble = str(error)
