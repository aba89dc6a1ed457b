"""What speculative decoding gains on each kind of work: drafters beside plain decoding, round by round in one run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pandas as pd

from lab import machine, models
from lab.data import tasks
from lab.engines import refuse_misfit
from lab.engines.scheduling import costs
from lab.errors import LabError
from lab.experiments import Chart, Experiment, option
from lab.experiments._remote import is_remote
from lab.experiments._speculative_arms import LONGEST, Arm, Served, Work, compared, serve
from lab.experiments._speculative_verdict import decide
from lab.records import Decoding, Message, Request, Settings, Trial, Verdict

if TYPE_CHECKING:
    from lab.engines.llama.context import Context
    from lab.engines.llama.weights import Weights
    from lab.engines.llama_cpp import LlamaCpp

DRAFTERS = ("prompt_lookup", "session_ngram", "draft_model", "self_draft")
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
