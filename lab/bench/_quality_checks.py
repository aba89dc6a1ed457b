"""What `lab bench quality` checks beside speed: equality with packages, a thousand answers, people, accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from lab import data, metrics, stats
from lab.engines import Engine, generate
from lab.errors import LabError
from lab.metrics import choice, equivalence, overlap, similarity
from lab.records import Decoding, Estimate, Generation, Message, Question, Request

SCORED_ITEMS, SCORED_LIMIT_S = 1000, 60.0
SCORED_WITH = ("rouge_l", "chrf", "similarity")
PARITY = 1e-4
"""Equal to four decimals on the packages' own scales."""


def recorded(engine: Engine, count: int, tokens: int) -> tuple[list[Question], list[Generation]]:
    """Summaries that the model wrote of our passages, recorded; enough of them for a thousand distinct texts.

    An answer is cut after different numbers of words, because embedding the same text twice would cost nothing.
    """
    notes = data.questions("notes", limit=count)
    whole = []
    for note in notes:
        messages = (Message(role="user", content=f"{note.question}\n\n{note.context}"),)
        request = Request(id=note.id, messages=messages, decoding=Decoding(max_tokens=tokens, ignore_eos=True))
        whole.append(generate(engine, request))
    made = []
    for cut in range(tokens):
        for note, generation in zip(notes, whole, strict=True):
            words = generation.text.split(" ")
            if cut < len(words) - 3:
                made.append((replace(note, id=f"{note.id}-{cut}"), replace(generation, text=" ".join(words[: len(words) - cut]))))
    return [question for question, _ in made[:SCORED_ITEMS]], [generation for _, generation in made[:SCORED_ITEMS]]


def parity(questions: Sequence[Question], generations: Sequence[Generation], items: int = 200) -> dict[str, Any]:
    """The largest difference from the packages called directly, on their own scales."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    asked, said = questions[:items], generations[:items]
    direct: dict[str, Callable[[Question, Generation], float]] = {
        "bleu": lambda q, g: BLEU(effective_order=True).sentence_score(g.text, list(q.references)).score,
        "chrf": lambda q, g: CHRF().sentence_score(g.text, list(q.references)).score}
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        direct[name] = lambda q, g, kind=kind: max(  # type: ignore[misc]
            RougeScorer([kind], use_stemmer=True).score(r, g.text)[kind].fmeasure for r in q.references)
    off = {}
    for name, call in direct.items():
        scale = 100 if name in ("bleu", "chrf") else 1
        ours = metrics.scorer(name)(asked, said)
        off[name] = max(abs(scale * s.value - call(q, g)) for s, q, g in zip(ours, asked, said, strict=True))
    references = [[q.references[0] for q in asked]]
    for name, corpus in (("bleu", BLEU()), ("chrf", CHRF())):
        ours_all, _ = overlap.corpus(name, [replace(q, references=q.references[:1]) for q in asked], said)  # type: ignore[arg-type]
        off[f"{name}_corpus"] = abs(100 * ours_all - corpus.corpus_score([g.text for g in said], references).score)
    worst = max(off.values())
    print(f"reference packages: largest difference {worst:.1e} over {len(off)} measures and {len(asked)} answers  "
          f"to 4 decimals: {_yes(worst < PARITY / 2)}")
    return {"largest_difference": off, "items": len(asked), "reached": worst < PARITY / 2,
            "signatures": {name: overlap.signature(name) for name in direct}}


def scoring(questions: Sequence[Question], generations: Sequence[Generation]) -> dict[str, Any]:
    seconds = {}
    similarity.default()
    for name in SCORED_WITH:
        began = time.perf_counter()
        metrics.scorer(name)(questions, generations)
        seconds[name] = time.perf_counter() - began
    total = sum(seconds.values())
    said = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
    print(f"{len(questions):,} answers x {len(seconds)} metrics: {total:.1f} s ({said})  below {SCORED_LIMIT_S:g} s: "
          f"{_yes(total < SCORED_LIMIT_S)}")
    return {"items": len(questions), "seconds": seconds, "total_s": total, "reached": total < SCORED_LIMIT_S}


def accuracies(engine: Engine, items: int, sets: Sequence[str] = ("everyday", "openbook_qa", "mmlu")) -> dict[str, Any]:
    made = {}
    for name in sets:
        asked = _fetched(name, lambda name=name: data.questions(name, limit=items))  # type: ignore[misc]
        if asked:
            found = stats.mean([s.value for s in choice.answers(engine, asked)])
            made[name] = {"items": len(asked), "accuracy": found.value, "low": found.low, "high": found.high}
            print(f"accuracy by likelihood on {name}: {_shown(found)} of {len(asked)} (beside lm-evaluation-harness: "
                  "python tests/bench/harness.py)")
    return made


def people() -> dict[str, Any]:
    made = {}
    for name in similarity.WORD_PAIRS:
        pairs = _fetched(name, lambda name=name: similarity.word_pairs(name))  # type: ignore[misc]
        if pairs:
            rho = similarity.correlation(pairs)
            made[name] = {"pairs": len(pairs), "spearman": rho.value, "low": rho.low, "high": rho.high}
            print(f"embedding similarity against people, {name}: Spearman {_shown(rho)} on {len(pairs)} pairs")
    return made | {"embedder": dict(similarity.default().settings)}


def equivalences() -> dict[str, Any]:
    """Agreement with people by cross-validation: with words alone, with the embedding, and with numbers and negations too."""
    made: dict[str, Any] = {}
    for name in ("nq_open_judged", "verdicts"):
        items = _fetched(name, lambda name=name: data.labelled(name))  # type: ignore[misc]
        if not items:
            continue
        arms = {"checked": equivalence.fit(items), "unchecked": equivalence.fit(items, checked=False)}
        made[name] = {arm: _agreed(found) for arm, found in arms.items()}
        for arm, found in arms.items():
            said = found.agreement
            print(f"equivalence on {name}, numbers and negations {arm}: agrees with people on {_shown(said.observed)} of "
                  f"{said.n} (constant guess {said.constant:.3f}), kappa {_shown(said.kappa)}, threshold {found.threshold:.3f}")
    return made


def _agreed(found: equivalence.Fitted) -> dict[str, Any]:
    said = found.agreement
    return {"threshold": found.threshold, "n": said.n, "observed": asdict(said.observed), "kappa": asdict(said.kappa),
            "constant": said.constant, "above_constant": said.above_constant}


def _fetched(name: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except LabError as error:
        print(f"{name} was left out: {error}")
        return None


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _yes(reached: bool) -> str:
    return "yes" if reached else "NO"
