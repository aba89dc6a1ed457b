"""The process of one attempt: runs and records the experiment as `lab run` does, and ends when whoever started it ends.

Figures are not drawn with each: a page of them is 5 MB, and `lab report RUN...` makes one of those that matter.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
from pathlib import Path

from lab import experiments
from lab.engines.http.client import Broken, Busy
from lab.engines.http.running import end_with
from lab.errors import LabError
from lab.ops import tracking
from lab.sweep import code
from lab.sweep.attempt import FAILED, INTERRUPTED, OTHER_CODE, REFUSED, Job

_PASSES = (tracking.Unwritten, Busy, Broken)
"""What may be otherwise at the next attempt: the store is away, the server has no room or broke off."""


def main() -> int:
    """Read the job from standard input; the code says how it ended, the last line of standard error why."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tied = socket.socket(fileno=int(sys.argv[1]))
    threading.Thread(target=end_with, args=(tied,), daemon=True).start()
    with contextlib.suppress(OSError):  # where memory runs out, this process goes and not the sweep
        Path("/proc/self/oom_score_adj").write_text("800")
    stage: list[str] = []
    job = Job(**json.loads(sys.stdin.read()))
    try:
        if code.state() != job.code:
            return _said("The workbench on this machine is not the one that started the sweep; install the same on all.",
                         OTHER_CODE)
        try:
            experiment = experiments.make(experiments.find(job.experiment), job.values)
            experiments.refuse_secrets(experiment)
            experiment.check()
        except LabError as error:
            return _said(str(error), REFUSED)
        recorded = tracking.record(experiment, about=job.about, tags=job.tags, on_start=lambda run_id: stage.append("run"),
                                   on_trial=lambda trial: stage.append("trial"))
        return INTERRUPTED if recorded.state == "interrupted" else 0
    except LabError as error:
        refused = stage == ["run"] and not isinstance(error, _PASSES)
        return _said(str(error), REFUSED if refused else FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _said(sentence: str, code_: int) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return code_


if __name__ == "__main__":
    sys.exit(main())
