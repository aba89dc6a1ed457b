"""Runs a server as its child so that nothing of it outlives the process that asked for it; a script of the bare library.

`python guard.py GRACE_S COMMAND...` starts COMMAND in this process group and waits. When its standard input closes (the
asker closed it, or died in whatever way) or a signal asks it to end, every process descended from it gets SIGTERM, and
SIGKILL after GRACE_S seconds. On Linux it is the reaper of its descendants, so that a grandchild that left the group, or
whose parent was killed, is found and ended too. The server has a folder of its own for temporary files, removed at the
end. It ends with the code of the server.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(grace_s: float, command: list[str]) -> int:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _frame: asked.append(n))
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as folder:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_the_guard,
                                  env={**os.environ, "TMPDIR": folder})
        while server.poll() is None and not asked and os.getppid() == parent:
            # A pipe can be kept open by a forked copy of the asker, hence the look at the parent as well.
            readable, _, _ = select.select([0], [], [], 0.25)
            if readable and not os.read(0, 4096):
                break
        code = server.poll()
        end_descendants(grace_s)
    return code if code is not None else server.wait()


def _die_with_the_guard() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_descendants(grace_s: float) -> None:
    """SIGTERM to all that descend from here, SIGKILL to what is left after the grace; returns when none is left."""
    kill, until = signal.SIGTERM, time.monotonic() + grace_s
    told: set[int] = set()
    seen: set[int] = set()
    while left := descendants(os.getpid()):
        seen |= left
        if kill is signal.SIGTERM and time.monotonic() > until:
            kill, told = signal.SIGKILL, set()
        for pid in left - told:
            told.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kill)
        _reap()
        time.sleep(0.02)
    for pid in seen:  # Intel's OpenMP leaves a file for each process that is ended by a signal
        for file in Path("/dev/shm").glob(f"__KMP_REGISTERED_LIB_{pid}_*"):
            file.unlink(missing_ok=True)


def _reap() -> None:
    """Collect ended children, adopted ones among them: a zombie would count as a descendant for ever."""
    for pid in descendants(os.getpid(), deep=False):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def descendants(root: int, *, deep: bool = True) -> set[int]:
    """Ids of the processes that descend from `root`, zombies among them; only its children unless `deep`."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found, todo = set(children.get(root, ())), list(children.get(root, ()))
    while todo and deep:
        more = [pid for pid in children.get(todo.pop(), ()) if pid not in found]
        found.update(more)
        todo.extend(more)
    return found


def _processes() -> list[tuple[int, int]]:
    """(id, parent's id) of every process."""
    if sys.platform != "linux":
        listed = subprocess.Popen(["ps", "-axo", "pid=,ppid="], stdout=subprocess.PIPE, text=True)
        lines = [line.split() for line in listed.communicate()[0].splitlines()]
        return [(int(pid), int(parent)) for pid, parent in lines if int(pid) != listed.pid]
    pairs = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name in parentheses can hold anything; what follows the last one is state and parent.
                pairs.append((int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])))
            except (OSError, ValueError, IndexError):
                continue
    return pairs


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
