"""The child that downloads an archive ends with the process that asked for it, even where that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

ASKER = """
import os, subprocess, sys
from lab.data.by_pip import _dies_with
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], preexec_fn=_dies_with(os.getpid()))
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_download_does_not_outlive_the_process_that_asked_for_it() -> None:
    asker = subprocess.Popen([sys.executable, "-c", ASKER], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    child = int(asker.stdout.readline())
    asker.kill()
    asker.wait()
    for _ in range(500):
        if not _running(child):
            return
        time.sleep(0.02)
    os.kill(child, 9)
    pytest.fail("the child lived on")


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
