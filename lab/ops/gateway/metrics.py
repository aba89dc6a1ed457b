"""What all processes of a gateway counted, in Prometheus' text format.

Each process leaves its totals in a small file now and then; whichever is asked adds them up. The file of a process that died
stays, so that no total ever falls.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import os
from collections import Counter
from pathlib import Path

from lab.engines.http.counters import BUCKETS_S
from lab.ops.requests_schema import LogRecord

GAUGES = ("requests_open",)


class Metrics:
    """One process's totals by name and labels; `folder` is shared with the other processes of the gateway."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"{os.getpid()}.json"
        self.totals: Counter[str] = Counter()

    def add(self, name: str, value: float = 1, **labels: object) -> None:
        self.totals[_named(name, labels)] += value  # type: ignore[assignment]

    def end(self, record: LogRecord) -> None:
        """Count a request that ended."""
        self.add("requests_total", release=record.release, status=record.status)
        if record.error_kind:
            self.add("errors_total", kind=record.error_kind)
        for name in ("prompt_tokens", "cached_tokens", "output_tokens", "cost_usd"):
            value = getattr(record, name)
            if value == value:
                self.add(f"{name}_total", value, release=record.release)
        if record.refused == 1:
            self.add("refused_total", release=record.release)
        if record.ttft_s == record.ttft_s:
            self.add("ttft_seconds_sum", record.ttft_s)
            self.add("ttft_seconds_count")
            place = bisect.bisect_left(BUCKETS_S, record.ttft_s)
            for bound in (*BUCKETS_S[place:], "+Inf"):
                self.add("ttft_seconds_bucket", le=f"{bound:g}" if isinstance(bound, float) else bound)

    def leave(self, gauges: dict[str, float]) -> None:
        """Write this process's totals for the others."""
        partial = self._file.with_suffix(".partial")
        with contextlib.suppress(OSError):  # a full disk must not end the gateway
            partial.write_text(json.dumps({**self.totals, **gauges}))
            partial.replace(self._file)

    def text(self, gauges: dict[str, float]) -> str:
        """The totals of all processes."""
        self.leave(gauges)
        whole: Counter[str] = Counter()
        for file in self._file.parent.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                said = json.loads(file.read_text())
                alive = file == self._file or _alive(file.stem)
                whole.update({name: value for name, value in said.items() if alive or name not in GAUGES})
        lines, seen = [], set[str]()
        for name in sorted(whole):
            family = name.split("{")[0]
            kind = "gauge" if family in GAUGES else "histogram" if family.startswith("ttft_seconds") else "counter"
            family = "ttft_seconds" if kind == "histogram" else family
            if family not in seen:
                seen.add(family)
                lines.append(f"# TYPE lab_gateway_{family} {kind}")
            lines.append(f"lab_gateway_{name} {whole[name]:.10g}")
        return "\n".join(lines) + "\n"


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return False
    return True


def _named(name: str, labels: dict[str, object]) -> str:
    if not labels:
        return name
    inner = ",".join(f'{key}="{_safe(str(value))}"' for key, value in labels.items())
    return f"{name}{{{inner}}}"


def _safe(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
