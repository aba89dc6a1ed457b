"""The process that watches a rollout for a gateway: `python -m lab.ops.gateway.watching TIE`, ending with whoever started it."""

from __future__ import annotations

import json
import socket
import sys
import threading

from lab.engines.http.running import end_with
from lab.errors import LabError
from lab.ops import rollouts


def main() -> None:
    """Says a line when something was decided; a `LabError` is one sentence on standard error and exit code 2."""
    tied = socket.socket(fileno=json.loads(sys.argv[1])["tie"])
    threading.Thread(target=end_with, args=(tied,), daemon=True).start()

    def say(seen: rollouts.Watched) -> None:
        if seen.did:
            print(f"Rollout {seen.rollout.number}: {seen.look.decision}; {seen.did}. {' '.join(seen.look.why)}", flush=True)

    try:
        rollouts.watch(say=say, trouble=lambda why: print(f"lab: {why}", file=sys.stderr, flush=True))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
