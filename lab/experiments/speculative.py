"""What speculative decoding gains on each kind of work: drafters beside plain decoding, round by round in one run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from lab import machine, models, stats
from lab.data import tasks
from lab.engines import refuse_misfit
from lab.engines.scheduling import costs
from lab.engines.scheduling.adaptive import Adaptive
from lab.engines.scheduling.draft_model import DraftModel
from lab.engines.scheduling.drafters import PromptLookup, Recorded, SessionNgram
from lab.engines.scheduling.scheduler import Scheduler, Step
from lab.engines.scheduling.speculation import Drafter
from lab.errors import LabError
from lab.experiments import Chart, Experiment, busy, option
from lab.experiments._remote import is_remote
from lab.load.scheduled import closed_loop
from lab.metrics import speed
from lab.metrics.answer import first_difference
from lab.records import Decoding, Estimate, Generation, Message, Request, Settings, Trial, Verdict

if TYPE_CHECKING:
    from lab.engines.llama.context import Context
    from lab.engines.llama.weights import Weights
    from lab.engines.llama_cpp import LlamaCpp

ENDED = ("stop", "length")
DRAFTERS = ("prompt_lookup", "session_ngram", "draft_model", "self_draft")
LONGEST = 31
"""Tokens that adaptive drafting may verify at most: with the one before them, four blocks of 8."""
NOTEWORTHY = 1.02
"""Speed-up whose whole interval must lie above this before a drafter is called worth it."""
SAFE = 0.95
"""Speed-up from which on leaving a drafter on costs nothing to speak of."""
DECISIVE = ["metrics." + name for name in (
    "speedup", "predicted_speedup", "acceptance_rate", "break_even_acceptance_rate", "verify_cost", "drafted_tokens",
    "tokens_per_target_step")]
"""What a decision looks at, where it was measured."""
Work = list[tuple[Request, list[int]]]
Load = tuple[int, float, str]
"""Batch, temperature and kind of work: what decides the requests."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speculative(Experiment):
    """For which kinds of work should this model decode speculatively, with which drafter and how many draft tokens?

    Each drafter serves the same requests as plain decoding does, in turn within every round; the speed-up is the geometric
    mean of the paired ratios of decoding speed (from the first token to the last, the draft's own reading of the prompt
    included). Its interval is over tasks and servings: answers to one task, or given at once, are not independent. Beside
    it stands what acceptance and the measured step costs predict, and the acceptance rate from which drafting would pay.
    Greedy answers should equal plain ones and are compared. Flash attention is on because the logits of a step then
    depend least on its number of tokens: up to 256 cells and 63 tokens not at all (docs/decisions/0004 has the test).
    Over HTTP a server without speculation and one for each drafter run side by side and are asked in turn; answers are
    compared by text, and step costs are not seen.
    """

    model: str = option("smollm2-135m", "target: catalogue name or GGUF path")
    engine: str = option("llama_cpp", "llama_cpp (in this process), server (lab serve), vllm, or the URL of a server that "
                         "speculates; drafters and lengths that it does not have are left out")
    plain_url: str = option("none", "the same model served without speculation, for an engine that is a URL")
    key_env: str = option("OPENAI_API_KEY", "environment variable with the key of servers given by URL")
    draft: str = option("none", "draft model with the same vocabulary: catalogue name or GGUF path; none leaves it out")
    drafters: tuple[str, ...] = option(("prompt_lookup", "session_ngram", "self_draft"),
                                       "prompt_lookup, session_ngram, draft_model, self_draft")
    draft_tokens: tuple[int, ...] = option((7,), "fixed draft lengths, tokens a step; a lookup drafts no more than it matched")
    adaptive: bool = option(True, "also let every drafter choose its length by acceptance and step costs")
    draft_confidence: float = option(0.0, "a draft model stops where its likeliest token has less probability (0 to 1)")
    keep_layers: int = option(0, "layers that the self-draft keeps; 0 is half of them")
    temperature: tuple[float, ...] = option((0.0,), "0 is greedy, above it sampling")
    top_k: int = option(0, "sample from the k likeliest tokens; 0 is all")
    batch: tuple[int, ...] = option((1, 4, 8), "sequences served at once")
    kinds: tuple[str, ...] = option(tasks.KINDS, "kinds of tasks")
    items: int = option(4, "tasks of each kind (1 to 4), intervals need 2; a batch larger than that asks them again")
    output_tokens: int = option(64, "output tokens of a request at most")
    repeats: int = option(2, "rounds; each serves every task plainly and with every drafter")
    context_tokens: int = option(4096, "KV cells of all sequences together")
    flash_attention: str = option("on", "auto, on or off; with off, a step of several tokens has other logits")
    kv_type: str = option("f16", "type of the KV cache")
    threads: int = option(0, "threads; 0 is all physical cores")

    columns: ClassVar[tuple[str, ...]] = (
        "speedup", "predicted_speedup", "acceptance_rate", "break_even_acceptance_rate", "accepted_share",
        "tokens_per_target_step", "drafted_step_share", "draft_share", "verify_cost", "decode_tokens_per_s",
        "plain_decode_tokens_per_s", "differing_sequences")
    charts: ClassVar[tuple[Chart, ...]] = (
        Chart(title="Speed-up over plain decoding by kind of work", kind="bar", x="params.kind", y="metrics.speedup",
              series="params.arm", where=("params.first_load", "yes")),
        Chart(title="Acceptance rate by kind of work", kind="bar", x="params.kind", y="metrics.acceptance_rate",
              series="params.arm", where=("params.first_load", "yes")),
        Chart(title="Speed-up measured against predicted", kind="tradeoff", x="metrics.predicted_speedup", y="metrics.speedup",
              label="name", series="params.drafter"),
        Chart(title="Speed-up of adaptive prompt lookup by batch", kind="line", x="params.batch", y="metrics.speedup",
              series="params.kind", where=("params.arm", "prompt_lookup, adaptive")),
    )

    def __post_init__(self) -> None:
        if wrong := [d for d in self.drafters if d not in DRAFTERS]:
            raise LabError(f"There is no drafter '{wrong[0]}' for --drafters; choose from {', '.join(DRAFTERS)}.")
        if "draft_model" in self.drafters and self.draft == "none":
            raise LabError("--drafters draft_model needs a model: name one with --draft.")
        from lab.experiments import _speculative_http

        _speculative_http.refuse_config(self)
        if not self.arms():
            raise LabError("Nothing drafts: give --drafters at least one, and --draft-tokens or --adaptive true.")
        if not self.batch or min(self.batch) < 1 or (self.draft_tokens and min(self.draft_tokens) < 1):
            raise LabError("--batch needs at least one value, and all of --batch and --draft-tokens at least 1.")
        if not self.temperature or min(self.temperature) < 0 or not 0 <= self.draft_confidence < 1 or self.top_k < 0:
            raise LabError("--temperature and --top-k are not negative, and --draft-confidence from 0 to below 1.")
        if not self.kinds or self.repeats < 1 or self.output_tokens < 8 or self.threads < 0:
            raise LabError("--kinds and --repeats need at least 1, --output-tokens at least 8, --threads is not negative.")
        tasks.tasks(self.kinds, self.items)

    @classmethod
    def demo(cls, **overrides: Any) -> Self:
        short = {"kinds": ("copy_editing", "conversation"), "drafters": ("prompt_lookup",), "draft_tokens": (15,), "batch": (1,),
                 "repeats": 2, "output_tokens": 48}
        return cls(**{**short, **overrides})

    def arms(self) -> list[Arm]:
        """Every drafter with every draft length; length 0 is adaptive. A draft model that was named takes part."""
        names = [*self.drafters, *(["draft_model"] if self.draft != "none" and "draft_model" not in self.drafters else [])]
        lengths = [*self.draft_tokens, *([0] if self.adaptive else [])]
        every = [Arm(drafter=name, tokens=tokens) for name in names for tokens in lengths]
        if is_remote(self.engine):
            from lab.experiments import _speculative_http

            return _speculative_http.offered(self.engine, every)
        return every

    def size(self) -> int:
        return len(self.arms()) * len(self.kinds) * len(self.temperature) * len(self.batch)

    def check(self) -> None:
        from lab.experiments import _observed, _speculative_http

        super().check()
        _observed.refuse_other(self.engine)
        if is_remote(self.engine):
            _speculative_http.refuse_machine(self)
            return
        with self._opened():
            pass

    def run(self) -> Iterator[Trial]:
        if is_remote(self.engine):
            from lab.experiments import _speculative_http

            yield from _speculative_http.trials(self)
            return
        with self._opened() as (engine, loads, drafts), contextlib.ExitStack() as closing:
            contexts, notes = self._contexts(engine, drafts, closing)
            for batch in self.batch:
                priced = self._prices(contexts, batch)
                for temperature in self.temperature:
                    for kind in self.kinds:
                        work = loads[batch, temperature, kind]
                        for trial in self._point(contexts, priced, work, kind, batch, temperature):
                            yield dataclasses.replace(trial, notes={**notes, **trial.notes}, settings={
                                **engine.settings, "context_tokens": self.context_tokens, **trial.settings})

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[LlamaCpp, dict[Load, Work], dict[str, Weights]]]:
        """The target, all requests and the draft model, once it is sure that they fit each other; no context yet."""
        from lab.engines.llama.draft import open_draft
        from lab.engines.llama_cpp import LlamaCpp

        engine = LlamaCpp(self.model, threads=self.threads, flash_attention=self.flash_attention, kv_type=self.kv_type)  # type: ignore[arg-type]
        with contextlib.ExitStack() as closing:
            closing.callback(engine.close)
            loads = {(batch, temperature, kind): self._work(engine, kind, batch, temperature)
                     for batch in self.batch for temperature in self.temperature for kind in self.kinds}
            room = min(self.context_tokens, engine.header.context_tokens or self.context_tokens)
            for work in loads.values():
                for _, tokens in work:
                    refuse_misfit(len(tokens), self.output_tokens, room)
            drafts = {}
            if self.draft != "none":
                drafts["draft_model"] = open_draft(models.find(self.draft), engine.weights)
                closing.callback(drafts["draft_model"].close)
            yield engine, loads, drafts

    def _contexts(
        self, engine: LlamaCpp, drafts: Mapping[str, Weights], closing: contextlib.ExitStack
    ) -> tuple[dict[str, Context], dict[str, str]]:
        """The target's context and those of the models that draft, each with a sequence for every one of the batch."""
        from lab.engines.llama.context import Context
        from lab.engines.llama.draft import open_draft, self_draft
        from lab.engines.llama.quantize import layers_of

        def opened(weights: Any) -> Context:
            context = Context(
                weights, context_tokens=self.context_tokens, threads=int(engine.settings["threads"] or 1),
                sequences=max(self.batch), batch_tokens=512, flash_attention=self.flash_attention, kv_type=self.kv_type)  # type: ignore[arg-type]
            closing.callback(context.close)
            return context

        contexts, notes = {"target": opened(engine.weights)}, {}
        for name, weights in drafts.items():
            contexts[name], notes[name] = opened(weights), models.find(self.draft).name
        if "self_draft" in {arm.drafter for arm in self.arms()}:
            file = self_draft(engine.file, self.keep_layers or layers_of(engine.file) // 2)
            weights = open_draft(file, engine.weights)
            closing.callback(weights.close)
            contexts["self_draft"], notes["self_draft"] = opened(weights), file.name
        return contexts, notes

    def _prices(self, contexts: Mapping[str, Context], batch: int) -> dict[str, costs.StepCosts]:
        """The step costs of every drafter at this batch, measured now."""
        most = max([batch * (1 + k) for k in self.draft_tokens] + ([batch + LONGEST] if self.adaptive else []))
        target = costs.measure(contexts["target"], batch=batch, most_tokens=most)
        priced = dict.fromkeys(DRAFTERS, target)
        for name in set(contexts) - {"target"}:
            priced[name] = target.with_draft(costs.measure(contexts[name], batch=batch, most_tokens=batch + 8), batch)
        return priced

    def _work(self, engine: LlamaCpp, kind: str, batch: int, temperature: float) -> Work:
        chosen = tasks.tasks((kind,), self.items)
        work = []
        for i in range(-(-self.items // batch) * batch):
            task = chosen[i % len(chosen)]
            decoding = Decoding(max_tokens=self.output_tokens, temperature=temperature, top_k=self.top_k, seed=i)
            request = Request(id=f"{task.id}.{i // len(chosen)}", messages=(Message(role="user", content=task.prompt),),
                              decoding=decoding)
            if "tokenizer.chat_template" not in engine.header.metadata:  # a base model reads the task as it stands
                request = dataclasses.replace(request, messages=None, prompt=f"{task.prompt}\n\n")
            work.append((request, engine.prompt_tokens(request)))
        return work

    def _point(
        self, contexts: Mapping[str, Context], priced: Mapping[str, costs.StepCosts], work: Work, kind: str, batch: int,
        temperature: float,
    ) -> list[Trial]:
        """All arms on one kind of work. Plain and each arm serve `batch` requests in turn, then the next ones backwards.

        So what is compared was measured within seconds, and every serving meets the machine in another mood.
        """
        arms = self.arms()
        plain: list[Served] = []
        served: dict[Arm, list[Served]] = {arm: [] for arm in arms}
        with machine.Watch() as watch:
            serve(contexts["target"], work[:1], batch, None)
            for i in range(self.repeats):
                drafters = {arm: arm.build(contexts, priced[arm.drafter], self.draft_confidence) for arm in arms}
                for at in range(0, len(work), batch):
                    for arm in [None, *arms] if (i + at // batch) % 2 == 0 else [*reversed(arms), None]:
                        for context in contexts.values():
                            context.clear()
                        done = serve(contexts["target"], work[at : at + batch], batch, drafters[arm] if arm else None)
                        (served[arm] if arm else plain).append(done)
        several = f", temperature {temperature:g}" if len(self.temperature) > 1 or temperature else ""
        first = "yes" if (batch, temperature) == (self.batch[0], self.temperature[0]) else "no"
        trials = []
        for arm in arms:
            settings: Settings = {
                "kind": kind, "drafter": arm.drafter, "arm": str(arm), "draft_length": arm.length, "batch": batch,
                "temperature": temperature, "top_k": self.top_k, "first_load": first}
            found, notes = compared(plain, served[arm], arm, priced[arm.drafter], batch, greedy=temperature <= 0)
            found |= {"foreign_cpu_share": watch.result.foreign_share, "wall_s": watch.result.wall_s,
                      "peak_memory_bytes": watch.result.peak_rss_bytes}
            trials.append(Trial(
                name=f"{kind}: {arm}, batch {batch}{several}", settings=settings, measures=found, notes=notes,
                generations=tuple(g for run in served[arm] for g in run.generations), flags=watch.result.flags()))
        return trials

    def verdict(self, trials: pd.DataFrame) -> Verdict:
        if is_remote(self.engine):
            from lab.experiments import _speculative_http

            return _speculative_http.with_caveats(self, decide(trials))
        return decide(trials)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A drafter and its draft length; 0 tokens is adaptive."""

    drafter: str
    tokens: int

    @property
    def length(self) -> str:
        return str(self.tokens) if self.tokens else "adaptive"

    def __str__(self) -> str:
        return f"{self.drafter}, {self.length}"

    def build(self, contexts: Mapping[str, Context], priced: costs.StepCosts, confidence: float) -> Drafter:
        """A fresh drafter that knows nothing yet."""
        tokens = self.tokens or LONGEST
        inner: Drafter
        if self.drafter == "prompt_lookup":
            inner = PromptLookup(tokens)
        elif self.drafter == "session_ngram":
            inner = SessionNgram(tokens)
        else:
            inner = DraftModel(contexts[self.drafter], tokens, confidence=confidence)
        return inner if self.tokens else Adaptive(inner, priced, longest=LONGEST)


@dataclass(frozen=True, kw_only=True)
class Served:
    """One serving of some requests, all at once."""

    generations: tuple[Generation, ...]
    steps: tuple[Step, ...]
    outcomes: tuple[tuple[int, int], ...] = ()
    """(drafted, accepted) of every draft."""


def serve(core: Any, work: Work, batch: int, drafter: Drafter | None) -> Served:
    """Serve `work` with `batch` requests at a time, speculating with `drafter` if there is one."""
    recorded = Recorded(drafter) if drafter else None
    scheduler = Scheduler(core, max_running=batch, drafter=recorded)
    jobs = closed_loop(scheduler, work, batch)
    return Served(generations=tuple(job.generation() for job in jobs), steps=tuple(scheduler.steps),
                  outcomes=tuple(recorded.outcomes) if recorded else ())


def compared(
    plain: Sequence[Served], served: Sequence[Served], arm: Arm, priced: costs.StepCosts, batch: int, *, greedy: bool
) -> tuple[dict[str, float | Estimate], dict[str, str]]:
    """Measures and notes of one arm beside the plain servings of the same requests, in the same order."""
    pairs = paired(served, plain)
    owners, servings = [task_of(mine) for _, mine, _ in pairs], [serving for serving, _, _ in pairs]
    rates = [speed.decode_tokens_per_s(mine) for _, mine, _ in pairs]
    plain_rates = [speed.decode_tokens_per_s(other) for _, _, other in pairs]
    ratios = [a / b for a, b in zip(rates, plain_rates, strict=True)]
    outcomes = [outcome for run in served for outcome in run.outcomes]
    # A step that also read a prompt was not priced; its tokens are left out on both sides.
    steps = [s for run in served for s in run.steps if not s.prefill_tokens]
    generations = [g for run in served for g in run.generations]
    drafted = sum(d for d, _ in outcomes)
    mean_drafts = drafted / len(outcomes) if outcomes else math.nan
    rate = costs.acceptance(outcomes)
    # Prices are those of the usual draft: a lookup with a short match offers less than it may.
    length = Counter(d for d, _ in outcomes).most_common(1)[0][0] if outcomes else arm.tokens
    begun = [g for g in generations if g.tokens]
    emitted, decided = sum(len(g.tokens) - 1 for g in begun), sum(len(set(g.tokens_at_s)) - 1 for g in begun)
    spent_s = sum(s.engine_s + s.overhead_s + s.draft_s for run in served for s in run.steps)
    found: dict[str, float | Estimate] = {
        "speedup": geometric_mean(ratios, owners, servings), "predicted_speedup": predicted(steps, outcomes, rate, priced),
        "acceptance_rate": rate, "accepted_share": sum(a for _, a in outcomes) / drafted if drafted else math.nan,
        "break_even_acceptance_rate": priced.break_even(length, batch) if length else math.nan,
        "tokens_per_target_step": emitted / decided if decided else math.nan,
        "drafted_step_share": len(outcomes) / decided if decided else math.nan, "mean_draft_tokens": mean_drafts,
        "draft_share": sum(s.draft_s for run in served for s in run.steps) / spent_s if spent_s else math.nan,
        "verify_cost": priced.step_s(batch * (1 + length)) / priced.step_s(batch) if length else math.nan,
        "decode_tokens_per_s": stats.clustered_percentile(rates, owners, 50),
        "plain_decode_tokens_per_s": stats.clustered_percentile(plain_rates, owners, 50),
    }
    shown = ", ".join(f"{n}: {s * 1e3:.3g}" for n, s in zip(priced.tokens, priced.seconds, strict=True))
    notes = {"step_ms_by_tokens": shown}
    if priced.draft_step_s:
        notes["draft_step_ms"] = f"{priced.draft_step_s * 1e3:.3g}"
    if alone := max(len(generations), sum(len(run.generations) for run in plain)) - len(pairs):
        notes["left_out"] = f"{alone} answers were cut off in one of the two arms and are compared with nothing"
    if greedy:
        differing = [(g.request.id, first_difference(g.tokens, other.tokens))
                     for _, g, other in pairs if g.tokens != other.tokens]
        found["differing_sequences"] = float(len(differing))
        if differing:
            notes["differs"] = ", ".join(f"{i} at token {at}" for i, at in differing[:20])
    return found, notes


def predicted(
    steps: Sequence[Step], outcomes: Sequence[tuple[int, int]], rate: float, priced: costs.StepCosts
) -> float:
    """The speed-up that `rate` and the step costs promise for drafts of these lengths: plain seconds over speculative.

    Tokens: one for every sequence of every step, and for a draft of k tokens (1 - a^(k+1)) / (1 - a) - 1 more.
    """
    if not steps:
        return math.nan
    decided = sum(s.decoding for s in steps)
    extra = [costs.expected_tokens(rate, k) - 1 for k, _ in outcomes]
    # Drafts of steps that also read a prompt are in `outcomes`; count the share that belongs to these steps.
    share = sum(s.drafted_tokens for s in steps) / max(1, sum(k for k, _ in outcomes))
    plain_token_s = sum(priced.step_s(s.decoding) for s in steps) / decided
    drafting_s = sum(k for k, _ in outcomes) * share / max(1.0, decided / len(steps)) * priced.draft_step_s
    spent_s = sum(priced.step_s(s.decoding + s.drafted_tokens) for s in steps) + drafting_s
    return (decided + share * sum(extra)) * plain_token_s / spent_s


def paired(served: Sequence[Served], plain: Sequence[Served]) -> list[tuple[int, Generation, Generation]]:
    """(serving, answer, plain answer) to the same request; one that was cut off on either side has no pair."""
    found = []
    for i, (mine, others) in enumerate(zip(served, plain, strict=False)):
        there = {g.request.id: g for g in others.generations if g.finish_reason in ENDED}
        found += [(i, g, there[g.request.id]) for g in mine.generations if g.finish_reason in ENDED and g.request.id in there]
    return found


def task_of(generation: Generation) -> str:
    """The task that was asked: a batch asks one several times, as `id.0`, `id.1` ..."""
    return generation.request.id.rsplit(".", 1)[0]


def geometric_mean(ratios: Sequence[float], tasks: Sequence[str], servings: Sequence[int]) -> Estimate:
    """The geometric mean of paired ratios; NaN pairs are left out.

    The interval is the wider of `stats.clustered_mean`'s over tasks and over servings. Rounds and copies of a task say
    more about its ratio, not about other tasks; and requests served together share what the machine did meanwhile. NaN
    where there is only one task or one serving.
    """
    logs = np.log(ratios)
    either = [stats.clustered_mean(logs, tasks), stats.clustered_mean(logs, servings)]
    low, high = np.min([e.low for e in either]), np.max([e.high for e in either])  # NaN if one of them is
    return Estimate(value=math.exp(either[0].value), low=math.exp(low), high=math.exp(high))


def decide(trials: pd.DataFrame) -> Verdict:
    """Which drafter for which kinds of work, at the first batch size and temperature; off where none is faster for sure."""
    trials = trials.reindex(columns=trials.columns.union(DECISIVE, sort=False))  # a measure that no trial has is no column
    rows = trials[trials["params.first_load"] == "yes"]
    # What drafted nothing cannot be faster than plain decoding, whatever the clock says.
    # A server that does not count its drafts shows them by the tokens of a step.
    shown = rows["metrics.acceptance_rate"].notna() | (rows["metrics.tokens_per_target_step"] > 1)
    drafting = rows[shown & (rows["metrics.drafted_tokens"] != 0)]
    wins = drafting[drafting["metrics.speedup_low"].fillna(0) > NOTEWORTHY] if "metrics.speedup_low" in rows else rows.iloc[:0]
    kinds = list(dict.fromkeys(rows["params.kind"]))
    why = [*_unsure(drafting, kinds, set(wins["params.kind"])), *_safest(rows), *_break_even(rows), *_agreement(trials),
           *_by_batch(trials)]
    caveats = []
    changed = trials.get("metrics.differing_sequences", pd.Series(dtype=float)).fillna(0)
    if changed.sum():
        caveats.append(f"{changed.sum():.0f} greedy answers in {int((changed > 0).sum())} trials differ from plain ones; the "
                       "note `differs` says where. A possible cause is that a step of several tokens sums in another order.")
    if "metrics.speedup_low" not in rows or rows["metrics.speedup_low"].isna().all():
        caveats.append("Speed-ups have no interval, so none can be called sure; ask at least 2 tasks of a kind (--items).")
    caveats += busy(trials)
    best = {kind: part.loc[part["metrics.speedup"].idxmax()] for kind, part in wins.groupby("params.kind", sort=False)}
    if not best:
        return Verdict(decision=f"Off: no drafter is surely more than {NOTEWORTHY - 1:.0%} faster than plain decoding on any of "
                                "these kinds of work.",
                       why=tuple(why), caveats=tuple(caveats))
    said = "; ".join(f"{_words(kind)}: {row['params.arm']} ({row['metrics.speedup']:.2f}x)" for kind, row in best.items())
    top = max(best.values(), key=lambda row: float(row["metrics.speedup"]))
    lost = [_words(kind) for kind in kinds if kind not in best]
    decision = f"On for every kind of work. {said}." if not lost else f"Off, except for {said}."
    if lost:
        why.insert(0, f"Nothing is surely more than {NOTEWORTHY - 1:.0%} faster than plain decoding on {', '.join(lost)}.")
    return Verdict(decision=decision, chosen=str(top["name"]), why=tuple(why), caveats=tuple(caveats))


def _unsure(drafting: pd.DataFrame, kinds: Sequence[str], won: set[str]) -> list[str]:
    """The best drafter of every kind of work whose mean gain could still be chance."""
    said = []
    for kind in [kind for kind in kinds if kind not in won]:
        part = drafting[(drafting["params.kind"] == kind) & (drafting["metrics.speedup"] > NOTEWORTHY)]
        if len(part):
            row = part.loc[part["metrics.speedup"].idxmax()]
            low, high = (float(row.get(f"metrics.speedup_{end}", math.nan)) for end in ("low", "high"))
            between = "no interval" if math.isnan(low) else f"{low:.2f} to {high:.2f}"
            said.append(f"{_words(kind)}: {row['params.arm']} had {row['metrics.speedup']:.2f}x ({between}), too unsure to "
                        "count.")
    return said


def _safest(rows: pd.DataFrame) -> list[str]:
    """What can be left on whatever the work is: the arm whose worst kind is best."""
    worst = {arm: part.loc[part["metrics.speedup"].idxmin()] for arm, part in rows.groupby("params.arm", sort=False)
             if part["metrics.speedup"].notna().all()}
    if not worst:
        return []
    arm, row = max(worst.items(), key=lambda pair: float(pair[1]["metrics.speedup"]))
    value = float(row["metrics.speedup"])
    can = f"can be left on for all work measured here (at least {SAFE:g}x)" if value >= SAFE else "should not be left on for all"
    return [f"{arm} has the best worst case, {value:.2f}x ({_words(str(row['params.kind']))}), and {can}."]


def _break_even(rows: pd.DataFrame) -> list[str]:
    fixed = rows[(rows["params.draft_length"].astype(str) != "adaptive") & rows["metrics.verify_cost"].notna()]
    said = []
    for arm, part in fixed.groupby("params.arm", sort=False):
        row, rates = part.iloc[0], part["metrics.acceptance_rate"]
        need = float(row["metrics.break_even_acceptance_rate"])
        found = f"acceptance was {rates.min():.0%} to {rates.max():.0%}" if rates.notna().any() else "nothing was drafted"
        cost = f"its usual verifying step costs {row['metrics.verify_cost']:.1f} plain ones"
        said.append(f"{arm}: {cost}, so it pays from {need:.0%} acceptance; {found}." if not math.isnan(need) else
                    f"{arm}: {cost}, so it cannot pay even if every draft is accepted; {found}.")
    return said


def _agreement(trials: pd.DataFrame) -> list[str]:
    both = trials.dropna(subset=["metrics.speedup", "metrics.predicted_speedup"])
    if both.empty:
        return []
    off = (both["metrics.predicted_speedup"] / both["metrics.speedup"] - 1).abs().median()
    return [f"The cost model (acceptance and measured step costs) is off by {off:.0%} in the middle of {len(both)} trials."]


def _by_batch(trials: pd.DataFrame) -> list[str]:
    if trials["params.batch"].nunique() < 2:
        return []
    means = [(int(batch), math.exp(np.log(part["metrics.speedup"].dropna()).mean()))
             for batch, part in trials.groupby("params.batch")]
    return ["Mean speed-up of all drafters by batch: " + ", ".join(f"{mean:.2f}x at {batch}" for batch, mean in means) + "."]


def _words(kind: str) -> str:
    return kind.replace("_", " ")
