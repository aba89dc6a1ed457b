"""Multiple choice by likelihood beside lm-evaluation-harness: the same items, prompts and weights, option by option.

The harness gets an environment of its own in the cache folder and reads a local task made from our items, in which the
prompt is our text to the letter. It runs the model as a Hugging Face folder that was converted from the GGUF once.

What differs and stays: the harness computes in 32-bit floats with dequantised weights, llama.cpp with 4-bit weights and
8-bit activations; and it tokenizes prompt and option together and cuts the tokens at the prompt's length, where we tokenize
a space and the option by themselves. `python tests/bench/harness.py [--json FILE] [SET ...]`
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab import data, machine, models, stats
from lab.engines import open_engine
from lab.engines.vllm_parts import conversion
from lab.engines.vllm_parts.environment import Environment, python_of
from lab.errors import LabError
from lab.metrics import choice
from lab.models import cache_dir
from lab.records import Question

VERSION = "0.4.13"
TORCH = "torch==2.13.0"
"""Named exactly, because an open range can bring a build for GPUs of several gigabytes."""
SETS = ("everyday", "openbook_qa", "mmlu")
ITEMS = 200
RUN = """
import json, sys
import torch
torch.set_num_threads(int(sys.argv[4]))
import lm_eval
from lm_eval.tasks import TaskManager
folder, model, names = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
found = lm_eval.simple_evaluate(model="hf", model_args={"pretrained": model, "dtype": "float32"}, device="cpu", tasks=names,
    task_manager=TaskManager(include_path=folder, include_defaults=False), num_fewshot=0, batch_size=16, log_samples=True,
    bootstrap_iters=0)
kept = {name: [{"id": s["doc"]["id"], "lp": [float(r[0]) for r in s["filtered_resps"]], "acc_norm": float(s["acc_norm"])}
               for s in found["samples"][name]] for name in names}
json.dump(kept, open(folder + "/found.json", "w"))
"""


def main(target: str | None, sets: Sequence[str]) -> None:
    place = install()
    python = python_of(place)
    folder = conversion.folder_of(models.DEFAULT, dtype="float32", say=print,
                                  environment=Environment(python=python, variant="cpu", version=VERSION))
    asked = {name: data.questions(name, limit=ITEMS) for name in sets}
    theirs = harness(python, folder.path, asked)
    engine = open_engine("llama_cpp", models.DEFAULT, threads=machine.threads_default())
    made = []
    try:
        for name, questions in asked.items():
            made.append(beside(name, questions, ours(engine, questions), theirs[name]))
            print(line(made[-1]), flush=True)
    finally:
        engine.close()
    if target:
        Path(target).write_text(json.dumps({"lm_eval": VERSION, "model": folder.name, "sets": made}, indent=1))


def ours(engine: Any, questions: Sequence[Question]) -> list[list[float]]:
    """The log-probability of every option, not yet divided by its length."""
    found = dict(choice.scores(engine, questions))
    return [[float(s) * len(c) for s, c in zip(found[i], q.choices, strict=True)] for i, q in enumerate(questions)]


def beside(name: str, questions: Sequence[Question], ours: list[list[float]], theirs: list[list[float]]) -> dict[str, Any]:
    mine, peer = ([_chosen(q, lp) for q, lp in zip(questions, side, strict=True)] for side in (ours, theirs))
    right, peer_right = ([float(c == q.answer) for c, q in zip(side, questions, strict=True)] for side in (mine, peer))
    n, accuracy, peer_accuracy = len(questions), float(np.mean(right)), float(np.mean(peer_right))
    error = math.sqrt(peer_accuracy * (1 - peer_accuracy) / n)
    gained, lost = (sum(a > b for a, b in zip(x, y, strict=True)) for x, y in ((right, peer_right), (peer_right, right)))
    return {"set": name, "items": n, "accuracy": accuracy, "peer_accuracy": peer_accuracy, "standard_error": error,
            "same_option_share": float(np.mean([a == b for a, b in zip(mine, peer, strict=True)])),
            "mcnemar_p": stats.mcnemar(gained, lost),
            "median_logprob_difference": float(np.median(np.abs(np.concatenate([np.subtract(a, b) for a, b in zip(ours, theirs, strict=True)])))),
            "within_one_standard_error": abs(accuracy - peer_accuracy) <= error}


def line(made: dict[str, Any]) -> str:
    return (f"{made['set']:<16}{made['items']:>5} items  ours {made['accuracy']:.3f}  harness {made['peer_accuracy']:.3f} (standard error "
            f"{made['standard_error']:.3f})  same option {made['same_option_share']:.1%}  McNemar p {made['mcnemar_p']:.2f}  "
            f"log-probabilities apart {made['median_logprob_difference']:.3f} (median)  within one standard error: "
            f"{'yes' if made['within_one_standard_error'] else 'NO'}")


def harness(python: Path, model: Path, asked: dict[str, list[Question]]) -> dict[str, list[list[float]]]:
    """The harness's log-probability of every option of every set."""
    with tempfile.TemporaryDirectory() as folder:
        for name, questions in asked.items():
            rows = [{"id": q.id, "prompt": choice.prompt(q), "choices": list(q.choices), "answer": q.answer} for q in questions]
            (Path(folder) / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            task = {"task": f"lab_{name}", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
                    "dataset_kwargs": {"data_files": {"test": f"{folder}/{name}.jsonl"}}, "doc_to_text": "{{prompt}}",
                    "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
                    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]}
            (Path(folder) / f"{name}.yaml").write_text(json.dumps(task))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        env |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": f"{folder}/home", "TOKENIZERS_PARALLELISM": "false"}
        _run([str(python), "-I", "-c", RUN, folder, str(model), ",".join(f"lab_{name}" for name in asked),
              str(machine.threads_default())], env)
        found = json.loads((Path(folder) / "found.json").read_text())
    kept = {}
    for name, questions in asked.items():
        by_id = {row["id"]: row for row in found[f"lab_{name}"]}
        kept[name] = [by_id[q.id]["lp"] for q in questions]
        for q in questions:  # what we make of its figures must be what it makes of them
            if float(_chosen(q, by_id[q.id]["lp"]) == q.answer) != by_id[q.id]["acc_norm"]:
                sys.exit(f"The harness's acc_norm of {q.id} is not that of its own log-probabilities.")
    return kept


def install() -> Path:
    """lm-evaluation-harness in an environment of its own, made once."""
    place = cache_dir() / "peers" / f"lm_eval-{VERSION}"
    if not (place / "ready").exists():
        print(f"Installing lm_eval {VERSION} into {place} ...", flush=True)
        venv.create(place, with_pip=True, clear=True)
        _run([str(python_of(place)), "-m", "pip", "install", "-q", f"lm_eval[hf]=={VERSION}", TORCH, "gguf", "accelerate"])
        (place / "ready").touch()
    return place


def _chosen(question: Question, logprobs: Sequence[float]) -> int:
    return int(np.argmax([lp / len(c) for lp, c in zip(logprobs, question.choices, strict=True)]))


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"'{' '.join(command[:3])[:200]} ...' failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    given = sys.argv[1:]
    to = given[given.index("--json") + 1] if "--json" in given else None
    named = [word for word in given if word not in ("--json", to)]
    try:
        main(to, named or SETS)
    except LabError as error:
        sys.exit(str(error))
