"""How far a capture can be believed: how late it sent and read, what it cost, and whether it was the limit itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab.load.plan import Account

BUSY_CPU_SHARE = 0.9
LATE_SEND_S = 0.005
LATE_READ_S = 0.005
DRIFT_LIMIT_S = 100e-6


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a run's capture says about itself; NaN where there was nothing to measure.

    A run is `client_bound` when its figures say more about this client than about the server: when the capture used
    more than 90% of a core, or 1% of the requests were sent more than 5 ms late although connections stood ready, or
    1% of the reads came more than 5 ms after the data. `reason` says which.
    """

    stamp_source: Literal["kernel", "user"]
    """Whether all arrival times are the kernel's, or some are those at which this process read the data."""
    send_lag_p50_s: float
    """Actual sending minus the schedule; NaN in a closed loop."""
    send_lag_p99_s: float
    send_lag_max_s: float
    read_lag_p50_s: float
    """Our read minus the kernel's receipt; with user stamps, our read minus the wake-up of its round."""
    read_lag_p99_s: float
    shared_read_share: float
    """Content events that arrived in one read with a later one of their answer, and so have its time."""
    cpu_share: float
    """Of one core, while the load ran."""
    clock_drift_s: float
    """Change of the distance between the kernel's stamps and the monotonic clock from before the load to after it."""
    warmup_requests: int
    warm_connections: int
    """Connections that stood before the first request."""
    cold_requests: int
    """Requests that had to wait for a connection to be made."""
    reconnects: int
    """Kept connections that the server had closed: idle ones, and those whose request was sent once more."""
    resent_requests: int
    peak_memory_bytes: float
    """Of the capture process while the load ran; NaN where the system does not say."""
    client_bound: bool
    reason: str = ""

    def measures(self) -> dict[str, float]:
        """The audit as measures of a trial."""
        return {
            "send_lag_p50_s": self.send_lag_p50_s, "send_lag_p99_s": self.send_lag_p99_s,
            "send_lag_max_s": self.send_lag_max_s, "read_lag_p50_s": self.read_lag_p50_s,
            "read_lag_p99_s": self.read_lag_p99_s, "shared_read_share": self.shared_read_share,
            "client_cpu_share": self.cpu_share, "clock_drift_s": self.clock_drift_s,
            "cold_requests": float(self.cold_requests), "reconnects": float(self.reconnects),
            "resent_requests": float(self.resent_requests), "client_peak_memory_bytes": self.peak_memory_bytes,
            "client_bound": float(self.client_bound),
        }

    def notes(self) -> dict[str, str]:
        """What is no number, as notes of a trial."""
        connections = f"{self.warm_connections} connections stood before the start"
        warm = f"the first request was asked {self.warmup_requests} times before the start, so its prompt may be cached"
        return {"stamp_source": self.stamp_source,
                "warm_up": f"{warm}; {connections}" if self.warmup_requests else f"no warm-up; {connections}"}


def audit(account: Account, *, events: int, shared: int) -> Audit:
    """Judge what a capture process said about itself, and the `shared` of the content `events` it saw."""
    send, read = np.asarray(account.send_lags_s), np.asarray(account.read_lags_s)
    wall_s = account.ended_s - account.started_s
    made = {
        "send_lag_p50_s": _percentile(send, 50), "send_lag_p99_s": _percentile(send, 99),
        "send_lag_max_s": _percentile(send, 100), "read_lag_p50_s": _percentile(read, 50),
        "read_lag_p99_s": _percentile(read, 99), "cpu_share": account.cpu_s / wall_s if wall_s > 0 else math.nan,
    }
    reason = _reason(made)
    return Audit(
        stamp_source="kernel" if account.reads and not account.unstamped_reads else "user", **made,
        shared_read_share=shared / events if events else math.nan, clock_drift_s=account.clock_drift_s,
        warmup_requests=account.warmed, warm_connections=account.opened_before, cold_requests=account.waited,
        reconnects=account.stale + account.resent, resent_requests=account.resent,
        peak_memory_bytes=float(account.peak_memory_bytes or math.nan), client_bound=bool(reason), reason=reason,
    )


def _reason(made: dict[str, float]) -> str:
    if made["cpu_share"] > BUSY_CPU_SHARE:
        return (f"The capture itself used {made['cpu_share']:.0%} of a core; ask for fewer tokens per second or spread the "
                "load over several runs.")
    if made["send_lag_p99_s"] > LATE_SEND_S:
        return (f"1% of the requests were sent {made['send_lag_p99_s'] * 1e3:.1f} ms late or later; the machine is too busy "
                "or the server accepts connections too slowly.")
    if made["read_lag_p99_s"] > LATE_READ_S:
        return (f"1% of the reads came {made['read_lag_p99_s'] * 1e3:.1f} ms after the data or later; the machine is too "
                "busy for this load.")
    return ""


def _percentile(values: np.ndarray, q: float) -> float:
    return float(np.percentile(values, q)) if values.size else math.nan
