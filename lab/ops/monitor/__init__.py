"""Monitoring: what the request log says of a window of time beside the window before, over time, and against its objectives.

    log = requests.Columns()
    rows = log.frame(now_s - 2 * 3600)
    now, before = monitor.beside(rows, now_s=now_s, window_s=3600)
    monitor.series(rows, since_s=now_s - 3600, until_s=now_s)
"""

from __future__ import annotations

from lab.ops.monitor.drifting import DriftState, drifts, promise
from lab.ops.monitor.series import MOST_BUCKETS, errors, series
from lab.ops.monitor.summary import Cost, Kind, Latency, Summary, beside, of_release, summary

__all__ = ["MOST_BUCKETS", "Cost", "DriftState", "Kind", "Latency", "Summary", "beside", "drifts", "errors", "of_release",
           "promise", "series", "summary"]
