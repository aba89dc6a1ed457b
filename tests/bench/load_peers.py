"""Our load capture beside guidellm and aiperf on the same ground-truth server in one run: usable token rate, CPU cost.

`python tests/bench/load_peers.py [--json FILE]` installs both tools into environments of their own in the cache folder
(minutes, once) and takes about ten minutes. A token rate is usable for a tool while its p95 of the time to first token is
within 5% of the server's own; each tool leaves its first round of requests out, by its own warm-up. CPU cost is the slope
between a short and a long load, so that nobody pays for starting.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lab.bench._ground_truth import GroundTruth, ground_truth
from lab.load.capture import capture
from lab.metrics import speed
from lab.models import cache_dir
from lab.records import Decoding, Message, Request

VERSIONS = {"guidellm": "0.8.1", "aiperf": "0.13.0"}
TTFT_S = 0.05
STREAMS = 16
RATES = (250, 1_000, 4_000, 16_000, 40_000, 80_000)
USABLE_SHARE = 0.05
USABLE_RATIO, COST_RATIO = 10.0, 8.0
TOKENIZER = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
words = ["[UNK]", *(a + b + c for a in "bcdfgklmnprst" for b in "aeiou" for c in "bdgklmnrst")]
made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", bos_token="[UNK]", eos_token="[UNK]").save_pretrained(sys.argv[1])
"""
"""A tokenizer from nothing, because both tools want one and none can be fetched everywhere."""

Tool = Callable[[GroundTruth, int, int, int, Path], float]
"""Put a closed loop of so many users and requests with so many tokens on the server; its p95 of TTFT in seconds."""


def ours(server: GroundTruth, users: int, requests: int, tokens: int, folder: Path) -> float:
    asked = [Request(messages=(Message(role="user", content="Count to one hundred."),), decoding=Decoding(max_tokens=tokens, seed=i))
             for i in range(requests)]
    got = capture(server.endpoint(), asked, users=users, warmup=1)
    return float(np.percentile([speed.ttft_s(g) for g in got.generations], 95))


def guidellm(server: GroundTruth, users: int, requests: int, tokens: int, folder: Path) -> float:
    prompts, out = folder / "prompts.json", folder / "guidellm.json"
    prompts.write_text(json.dumps([{"prompt": "Count to one hundred."}] * requests))
    _run([_tool("guidellm"), "run", "--backend", f"kind=openai_http,target=http://127.0.0.1:{server.port},model=ground-truth",
          "--profile", f"kind=concurrent,streams={users},warmup=0.2", "--constraint", f"kind=max_requests,count={requests}",
          "--data", f"kind=json_file,path={prompts}", "--output", f"kind=json,path={out}", "--disable-console-interactive"])
    made = json.loads(out.read_text())["benchmarks"][0]["metrics"]["time_to_first_token_ms"]["successful"]
    return float(made["percentiles"]["p95"]) / 1e3


def aiperf(server: GroundTruth, users: int, requests: int, tokens: int, folder: Path) -> float:
    tokenizer, out = folder / "tokenizer", folder / "aiperf"
    if not tokenizer.exists():
        _run([str(_environment("aiperf") / "bin" / "python"), "-c", TOKENIZER, str(tokenizer)])
    _run([_tool("aiperf"), "profile", "-m", "ground-truth", "--url", f"http://127.0.0.1:{server.port}", "--endpoint-type", "chat",
          "--streaming", "--concurrency", str(users), "--request-count", str(requests), "--warmup-request-count", str(users), "--tokenizer", str(tokenizer),
          "--synthetic-input-tokens-mean", "8", "--output-artifact-dir", str(out), "--ui", "none", "--no-server-metrics",
          "--no-gpu-telemetry", "--use-server-token-count"])
    return float(json.loads((out / "profile_export_aiperf.json").read_text())["time_to_first_token"]["p95"]) / 1e3


TOOLS: dict[str, Tool] = {"ours": ours, "guidellm": guidellm, "aiperf": aiperf}


def load(tool: str, users: int, rate: float, tokens: int, rounds: int) -> dict[str, float]:
    """One closed loop: every user asks `rounds` times for `tokens`; errors against the server's own record."""
    before, begun = _cpu_s(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        with ground_truth(ttft_us=int(TTFT_S * 1e6), gap_us=round(users / rate * 1e6), tokens=tokens) as server:
            p95 = TOOLS[tool](server, users, users * rounds, tokens, Path(folder))
            cpu = _cpu_s() - before
        true = float(np.percentile([t.ttft_s for t in server.truths], 95))
    return {"rate": rate, "ttft_p95_s": p95, "true_ttft_p95_s": true, "error_share": p95 / true - 1, "cpu_s": cpu,
            "tokens": float(sum(len(t.sent_s) for t in server.truths)), "wall_s": time.perf_counter() - begun}


def usable(tool: str) -> tuple[float, list[dict[str, float]]]:
    """The highest rate up to which the error stays within 5% (median of three loads), 0 if none does."""
    best, made = 0.0, []
    for rate in RATES:
        tokens = max(8, round(rate / STREAMS / 2))
        three = [load(tool, STREAMS, rate, tokens, 6) for _ in range(3)]
        made += three
        error = statistics.median(abs(one["error_share"]) for one in three)
        print(f"{tool:10}{rate:>9,} tokens/s   TTFT p95 off by {error:8.1%}", flush=True)
        if error > USABLE_SHARE:
            break
        best = float(rate)
    return best, made


def tokens_per_cpu_s(tool: str, users: int = 64) -> float:
    """Tokens per CPU-second of the tool's whole process tree, from the difference of a long load and a short one."""
    rate = 4_000 if tool != "ours" else 40_000
    short, long = (load(tool, users, rate, round(rate / users), rounds) for rounds in (1, 6))
    return (long["tokens"] - short["tokens"]) / (long["cpu_s"] - short["cpu_s"])


def main(target: str | None = None) -> None:
    for name in VERSIONS:
        install(name)
    rates, cells = {}, {}
    for tool in TOOLS:
        rates[tool], cells[tool] = usable(tool)
    costs = {tool: tokens_per_cpu_s(tool) for tool in TOOLS}
    print(f"\n{'':10}{'usable tokens/s':>17}{'ratio':>9}{'tokens/CPU-s':>15}{'ratio':>8}")
    for tool in TOOLS:
        # A tool that is off already at the lowest rate tried is below it: the ratio is a lower bound.
        peer = rates[tool] or RATES[0]
        print(f"{tool:10}{'below ' if not rates[tool] else ''}{peer:>11,.0f}{rates['ours'] / peer:>9.1f}{costs[tool]:>15,.0f}"
              f"{costs['ours'] / costs[tool]:>8.1f}")
    met = all(rates["ours"] / (rates[t] or RATES[0]) >= USABLE_RATIO and costs["ours"] / costs[t] >= COST_RATIO for t in VERSIONS)
    print(f"At least {USABLE_RATIO:g} times the usable rate and {COST_RATIO:g} times the tokens per CPU-second: {'yes' if met else 'NO'}")
    if target:
        Path(target).write_text(json.dumps({"usable_tokens_per_s": rates, "tokens_per_cpu_s": costs, "loads": cells, "met": met}, indent=1))


def install(name: str) -> None:
    """The tool in an environment of its own, made once."""
    folder = _environment(name)
    if not (folder / "bin" / name).exists():
        print(f"Installing {name} {VERSIONS[name]} into {folder} ...", flush=True)
        venv.create(folder, with_pip=True)
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", f"{name}=={VERSIONS[name]}"])


def _environment(name: str) -> Path:
    return cache_dir() / "peers" / f"{name}-{VERSIONS[name]}"


def _tool(name: str) -> str:
    return str(_environment(name) / "bin" / name)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"'{' '.join(command[:3])} ...' failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main(sys.argv[2] if sys.argv[1:2] == ["--json"] else None)
