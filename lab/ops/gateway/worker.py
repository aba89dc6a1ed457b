"""One process of a gateway with several, as its supervisor starts it: `python -m lab.ops.gateway.worker SETTINGS`."""

from __future__ import annotations

import sys

from lab.errors import LabError
from lab.ops.gateway.running import worker


def main() -> None:
    """A `LabError` is one sentence on standard error and exit code 2, as with every command."""
    try:
        worker(sys.argv[1])
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
