"""The request log: one row per request that reached a gateway, durable before its answer ends, bounded, without texts by default.

    log = requests.RequestLog(requests.folder())
    log.add(record, token=exchange)            # never waits; `acknowledge` is told when the row is safe
    requests.frame(since_s=time.time() - 3600) # rows of the last hour
"""

from lab.ops.requests.columns import Columns
from lab.ops.requests.reading import frame, position, texts
from lab.ops.requests.record import COLUMNS
from lab.ops.requests.scores import Scored
from lab.ops.requests.sealing import Keep
from lab.ops.requests.writer import RequestLog, folder

__all__ = ["COLUMNS", "Columns", "Keep", "RequestLog", "Scored", "folder", "frame", "position", "texts"]
