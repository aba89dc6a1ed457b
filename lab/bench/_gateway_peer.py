"""The LiteLLM proxy as a child process in front of one server: from an environment of its own, without database or network."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

KEY_ENV = "LAB_BENCH_LITELLM_KEY"
START_S = 120.0
CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: "openai/{model}", api_base: "http://127.0.0.1:{port}/v1", api_key: none}}
litellm_settings: {{telemetry: false, num_retries: 0}}
"""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A proxy that answers; its key stands in the environment variable `KEY_ENV`."""

    port: int
    pid: int
    version: str


@contextlib.contextmanager
def litellm(environment: str, *, model: str, port: int) -> Iterator[Peer]:
    """LiteLLM of the virtual environment at `environment`, one worker, in front of `model` on a local `port`.

    Raises `LabError` when it is not there or does not start.
    """
    program = Path(environment).expanduser() / "bin" / "litellm"
    if not program.is_file():
        raise LabError(f"There is no LiteLLM in {environment}; run `python -m venv {environment}` and there "
                       "`bin/pip install 'litellm[proxy]'`.")
    ask = "from importlib.metadata import version; print(version('litellm'))"
    said = subprocess.run([str(program.with_name("python")), "-c", ask], capture_output=True, text=True).stdout.strip()
    os.environ[KEY_ENV] = "sk-" + secrets.token_hex(24)
    # The price map is taken from the package: without it the start asks the network. It inherits no path of ours.
    env = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "LITELLM_LOCAL_MODEL_COST_MAP": "True",
           "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": os.environ[KEY_ENV]}
    with tempfile.TemporaryDirectory(prefix="lab-litellm-") as folder, open(Path(folder) / "said", "wb") as words:
        (Path(folder) / "config.yaml").write_text(CONFIG.format(model=model, port=port))
        free = _free_port()
        process = subprocess.Popen(
            [str(program), "--config", str(Path(folder) / "config.yaml"), "--host", "127.0.0.1", "--port", str(free),
             "--num_workers", "1", "--telemetry", "False"],
            env=env, stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder)
        try:
            _wait(process, free, Path(folder) / "said")
            yield Peer(port=free, pid=process.pid, version=said or "unknown")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            del os.environ[KEY_ENV]


def _wait(process: subprocess.Popen[bytes], port: int, words: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5):
            return
        time.sleep(0.3)
    lines = words.read_text(errors="replace").strip().splitlines()
    raise LabError(f"LiteLLM did not answer within {START_S:g} s ({lines[-1][:200] if lines else 'it said nothing'}); see "
                   "whether its environment works.")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
