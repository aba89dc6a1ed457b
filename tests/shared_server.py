"""A shared MLflow server as docs/scale.md sets one up: PostgreSQL, an S3-compatible object store, all on 127.0.0.1 and of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

NOBODY = 65534
BUCKET = "lab"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_programs() -> Path | None:
    """Where `initdb` and `postgres` are: the pip package pgserver, else the system's."""
    with contextlib.suppress(ImportError):
        import importlib.util

        if (found := importlib.util.find_spec("pgserver")) and found.origin:
            return Path(found.origin).parent / "pginstall" / "bin"
    system = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *([Path(p).parent] if (p := shutil.which("initdb")) else [])]
    return system[-1] if system else None


@contextlib.contextmanager
def child(command: list[str], log: Path, **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, with all that it started."""
    with open(log, "ab") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True, **more)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        import signal

        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait(ready: Callable[[], bool], seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def healthy(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    return False


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of our own; gives its URI. It refuses to run as root, so then it runs as nobody."""
    programs = postgres_programs()
    assert programs is not None
    data, port, log = folder / "pg", free_port(), folder / "postgres.log"
    who = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
    data.mkdir()
    if who:
        os.chown(data, NOBODY, NOBODY)
        for parent in [folder, *folder.parents]:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run([programs / "initdb", "-D", data, "-U", "lab", "--auth", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"], check=True,
                   capture_output=True, cwd="/", **who)  # type: ignore[call-overload]
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data), "-c", "fsync=off"]
    with child(command, log, cwd="/", **who):
        wait(lambda: listens(port), 30, log)
        yield f"postgresql+psycopg://lab@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[dict[str, str]]:
    """An S3-compatible server with one bucket; gives the variables that point at it."""
    port, log = free_port(), folder / "moto.log"
    environment = {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab",
                   "AWS_DEFAULT_REGION": "us-east-1"}
    with child([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], log):
        wait(lambda: listens(port), 60, log)
        import boto3

        boto3.client("s3", endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"], aws_access_key_id="lab", aws_secret_access_key="lab",
                     region_name="us-east-1").create_bucket(Bucket=BUCKET)
        yield environment


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """MLflow on both; gives its address, the database's and the object store's variables. Clients need none of the latter two."""
    with postgresql(folder) as database, object_store(folder) as s3:
        port, log = free_port(), folder / "mlflow.log"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--artifacts-destination", f"s3://{BUCKET}",
                   "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with child(command, log, env={**os.environ, **s3, **quiet}, cwd=folder):
            wait(lambda: healthy(f"http://127.0.0.1:{port}/health"), 120, log)
            yield f"http://127.0.0.1:{port}", database, s3
