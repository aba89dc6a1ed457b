"""What the request log shows of a rollout: every row and score once, as it appears, into a comparison that may be peeked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.ops import requests
from lab.ops.requests import scores
from lab.ops.requests_schema import SHADOW, checked, failed, served
from lab.ops.rollouts.record import Rollout
from lab.stats.sequential import Arm, Comparison, Look

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("id", "request_id", "time_s", "release", "arm", "user_hash", "key_hash", "status", "error_kind", "finish_reason",
          "e2e_s", "cost_usd")
SUFFIX = "-shadow"
"""What the id of a shadow's row ends with."""
EARLIER_S = 86_400.0
"""Scores are read of requests from this long before the beginning on: a clock may be set back by as much."""


class Evidence:
    """Reads what is new with every `look`; keeps some 200 bytes a request in memory, for scores that come later."""

    def __init__(self, rollout: Rollout, *, place: Path | None = None) -> None:
        self.rollout, self._place = rollout, place or requests.folder()
        self.comparison = Comparison(rollout.metrics())
        self._arms: dict[str, tuple[Arm, str]] = {}
        self._last, self._scores = rollout.position, 0
        self.requests = self.scored = 0
        """Answers of both arms that were seen so far, and scores of them."""

    def look(self) -> Look:
        """Take in what the log has now, and decide on all of it. Raises `LabError` for a log that cannot be read."""
        # Scores first: whoever was scored has a row by then.
        given = scores.read(self._place, self.rollout.at_ms / 1e3 - EARLIER_S) if self.rollout.score else []
        rows = requests.frame(columns=NEEDED, place=self._place, after=self._last)
        if len(rows):
            self._last = int(rows["id"].max())
            self._add(rows)
        self._score(given)
        return self.comparison.look()

    def _add(self, rows: pd.DataFrame) -> None:
        one = self.rollout
        of = {"A": f"release {one.production}", "B": f"release {one.candidate}"}
        rows = rows.assign(arm=rows["arm"].replace(SHADOW, "B"))
        rows = checked(rows[rows["arm"].isin(list(of)) & (rows["release"] == rows["arm"].map(of))])
        broke = failed(rows)
        rows = rows.assign(broke=broke)[served(rows)]
        for row in rows.to_dict("records"):
            arm: Arm = "A" if row["arm"] == "A" else "B"
            asked = str(row["request_id"]).removesuffix(SUFFIX)
            user = str(row["user_hash"] or (row["key_hash"] if one.stage != SHADOW else "") or asked)
            self.requests += 1
            if one.score:
                self._arms[str(row["request_id"])] = arm, user
            self.comparison.add(arm, _values(row), user)

    def _score(self, given: Sequence[scores.Scored]) -> None:
        new, self._scores = given[self._scores:], len(given)
        for one in new:
            if one.name != self.rollout.score or math.isnan(one.value):
                continue
            known = self._arms.pop(one.request_id, None)  # the first score of a request counts: sums cannot be taken back
            if known is not None:
                self.scored += 1
                self.comparison.add(known[0], {one.name: one.value}, known[1])


def _values(row: Mapping[str, object]) -> dict[str, float]:
    broke = bool(row["broke"])
    return {"failed": float(broke), "e2e_s": math.inf if broke else float(row["e2e_s"]),  # type: ignore[arg-type]
            "cost_usd": float(row["cost_usd"])}  # type: ignore[arg-type]
