"""What guardrails cost and whether they hold: time per text, the wait for first tokens, hostile texts, and both rates.

The deterministic part is every rule that is a pattern or a list. Texts are slices of prose; each is looked at whole and in
chunks of four characters. Hostile texts repeat what patterns begin with, at one length and at twice that: linear work doubles.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from lab import data, machine, models, safety, stats
from lab.engines import open_engine
from lab.experiments import _guardrails_stream as streams
from lab.experiments.guardrails import Guardrails
from lab.safety import guards

DETERMINISTIC = ("injection", "harmful requests", "disallowed phrases", "secrets", "personal data")
PATTERNED = ("content", "injection", "personal", "requests", "secrets")
MOST_PER_1000_S, MOST_ADDED_S = 1e-3, 2e-3
SEEDS = ("a", "0", "1 ", "a@", "-", "a-", "a.", "+1", "(1)", "eyJ", "password: ", "ignore ", "ignore all your ", "make a ",
         "0 1-", "!", "\n", "\u200b", "p i p e ", "ab1C", "-----BEGIN PRIVATE KEY-----", "ignore all the above ", "without any ")


def main(
    model: str = models.DEFAULT, *, texts: int = 400, characters: int = 1000, answers: int = 12, output_tokens: int = 24,
    hostile: int = 60, hostile_characters: int = 20_000, threads: int = 1,
) -> dict[str, Any]:
    """Measure, print a line per figure, and return the same figures."""
    with machine.Watch() as watch:
        work = _work(texts, characters)
        fuzz = _hostile(hostile, hostile_characters)
        first = {name: _first(engine, model, answers, output_tokens, threads)
                 for name, engine in (("scripted", "scripted"), (model, "llama_cpp"))}
        rates = _rates()
    for name, one in work.items():
        mark = f"  below {MOST_PER_1000_S * 1e3:g} ms: {_yes(one['reached'])}" if "reached" in one else ""
        print(f"{name:<40} p50 {one['p50_s'] * 1e3:6.3f} ms  p99 {one['p99_s'] * 1e3:6.3f} ms for {characters:,} letters{mark}")
    for name, those in first.items():
        for policy, one in those.items():
            print(f"first text, {name}, {policy:<10} the chain's work {one['work_first_s'] * 1e3:6.3f} ms  below "
                  f"{MOST_ADDED_S * 1e3:g} ms: {_yes(one['reached'])}; {one['waited_chunks']:g} more chunks, "
                  f"{one['first_text_added_s'] * 1e3:.1f} ms in all")
    for name, one in fuzz.items():
        print(f"hostile texts, {name:<18} worst {one['worst_s'] * 1e3:7.1f} ms for {hostile_characters:,} characters; twice the "
              f"text takes {one['growth']:.1f} times as long (median)")
    if rates:
        ours, alone = rates["default"], rates["classifier"]
        print(f"attacks caught {ours['caught']:.1%}, the classifier alone {alone['caught']:.1%}; false alarms "
              f"{ours['false_alarm']:.2%} and {alone['false_alarm']:.2%}  better in both: {_yes(rates['reached'])}")
    flags = watch.result.flags()
    print(*(f"Caution: {flag}; run again on a quiet machine." for flag in flags), sep="\n")
    return {"work": work, "first_token": first, "hostile": fuzz, "rates": rates, "characters": characters, "flags": list(flags),
            "machine": machine.fingerprint(bandwidth=False).as_tags()}


def _work(texts: int, characters: int) -> dict[str, dict[str, Any]]:
    """Seconds per text, whole and in chunks, of the deterministic rules and of the whole default policy."""
    prose = data.text("pydoc-topics")
    parts = [prose[i * characters : (i + 1) * characters] for i in range(min(texts, len(prose) // characters))]
    policy = safety.load()
    plain, whole = safety.Chain(policy.only(*DETERMINISTIC)), safety.Chain(policy)
    looks: dict[str, Callable[[str], Any]] = {
        "deterministic rules, input": plain.input,
        "deterministic rules, answer": plain.output,
        "deterministic rules, answer by 4 letters":
            lambda text: list(plain.stream(text[i : i + 4] for i in range(0, len(text), 4))),
        "default policy, input": whole.input}
    found = {name: _timed(look, parts) for name, look in looks.items()}
    for name in ("deterministic rules, input", "deterministic rules, answer"):
        found[name]["reached"] = found[name]["p99_s"] < MOST_PER_1000_S * characters / 1000
    return found


def _timed(look: Callable[[str], Any], parts: Sequence[str]) -> dict[str, Any]:
    for part in parts[:20]:
        look(part)
    seconds = []
    for part in parts:
        began = time.perf_counter()
        look(part)
        seconds.append(time.perf_counter() - began)
    p50, p99 = (stats.percentile(seconds, q) for q in (50, 99))
    return {"p50_s": p50, "p99_s": p99, "max_s": max(seconds), "texts": len(parts)}


def _first(engine: str, model: str, answers: int, tokens: int, threads: int) -> dict[str, dict[str, Any]]:
    opened = open_engine(engine, model, threads=threads)
    try:
        written = streams.answers(opened, answers, tokens)
    finally:
        opened.close()
    found = {}
    for name in ("default", "strict", "classifier"):
        chain = safety.Chain(safety.load(name))
        shown = [streams.replay(chain, answer) for answer in written]
        medians = {measure: stats.percentile([getattr(one, measure) for one in shown], 50)
                   for measure in ("work_first_s", "waited_chunks", "first_text_added_s")}
        found[name] = {**medians, "reached": medians["work_first_s"] < MOST_ADDED_S}
    return found


def _hostile(count: int, characters: int) -> dict[str, dict[str, float]]:
    """Per guard the slowest look at a hostile text, and how much longer twice the text takes (the median over texts)."""
    randomly = random.Random(0)
    seeds = [*SEEDS, *("".join(randomly.choices(SEEDS, k=3)) for _ in range(max(0, count - len(SEEDS))))][:count]
    found = {}
    for name in PATTERNED:
        guard = guards.make(name, {})
        once, growths = [], []
        for seed in tqdm(seeds, desc=name, leave=False, disable=None):
            text = (seed * (2 * characters))[: 2 * characters]
            short, long = (_seconds(guard, text[:size]) for size in (characters, 2 * characters))
            once.append(short)
            growths.append(long / short)
        found[name] = {"worst_s": max(once), "growth": stats.percentile(growths, 50), "worst_growth": max(growths),
                       "texts": len(seeds)}
    return found


def _seconds(guard: safety.Guard, text: str) -> float:
    began = time.perf_counter()
    guard.scan(text, 0, False)
    guard.scan(text, 0, True)
    return time.perf_counter() - began


def _rates() -> dict[str, Any]:
    """Both rates of the default policy and of the classifier alone, on the half that nothing was developed on."""
    experiment = Guardrails(streamed=(), ablation=False)
    found: dict[str, Any] = {}
    for trial in experiment.run():
        if trial.settings["kind"] == "chain":
            found[trial.name] = {name: getattr(value, "value", value) for name, value in trial.measures.items()}
    ours = found["default"]
    reached = (ours["catch_gain"] > 0 and ours["catch_gain_p"] < 0.05
               and ours["false_alarm_change"] < 0 and ours["false_alarm_change_p"] < 0.05)
    missing = [name for name in experiment.sets if name not in experiment.present()]
    return {**{name: _plain(one) for name, one in found.items()}, "reached": reached, "sets_missing": missing}


def _plain(measures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in measures.items()}


def _yes(reached: bool) -> str:
    return "yes" if reached else "NO"
