"""Asks a model many questions: batched by the scheduler in this process, side by side at a server, else one by one."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tqdm import tqdm

from lab.engines import Branching, Engine, branch_logprobs_many, generate
from lab.errors import LabError
from lab.metrics.judging.asked import Ask, Asker, Reply
from lab.metrics.judging.kept import Kept, key
from lab.records import Decoding, Generation, Request

RUNNING = 8
"""Judgements decoded at a time in this process."""
PREFIXES = 4
TOGETHER = 64
"""Questions asked before their replies are kept: what an interruption costs at most."""
REMOTE = ("server", "vllm", "anthropic")
_NO_MATTER = ("threads", "threads_batch", "mmap", "stream", "retries", "url", "max_running", "queue")
"""Settings that decide how fast an answer comes and not what it says; a server's URL is in the identity already."""


class ModelAsker(Asker):
    """A judge behind an engine. By likelihood no text is written: the probabilities of the options are read.

    `keep` holds replies that were given before; `identity` says what decides them. Asking takes turns at `temperature`
    0 for the first and `turn_temperature` for every further one, each with a seed of its own. A base model, whose file has
    no chat template, reads the turns as one plain text that ends where its reply begins (`plain`).
    """

    def __init__(
        self, engine: Engine, *, name: str, by_likelihood: bool = False, keep: Kept | None = None, rubric: str = "",
        max_tokens: int = 256, turn_temperature: float = 0.7, seed: int = 0, concurrency: int = RUNNING,
    ) -> None:
        self.engine, self.name, self.by_likelihood = engine, name, by_likelihood
        self._keep, self._rubric, self._concurrency = keep, rubric, concurrency
        self._decoding = Decoding(max_tokens=max_tokens, seed=seed)
        self._turn_temperature = turn_temperature
        self.identity = identity(engine)
        header = getattr(engine, "header", None)
        self.plain = header is not None and "tokenizer.chat_template" not in header.metadata

    def ask(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply for each ask, kept ones without asking. Raises `LabError` when not one of several could be asked."""
        keep = self._keep if self.identity else None
        names = [key(self.identity, ask, self._decode(ask), self._rubric) for ask in asks] if keep else []
        replies: list[Reply | None] = [keep.get(name) for name in names] if keep else [None] * len(asks)
        missing = [i for i, reply in enumerate(replies) if reply is None]
        for at in range(0, len(missing), TOGETHER):
            some = missing[at : at + TOGETHER]
            found = self._replies([asks[i] for i in some])
            if len(found) > 2 and all(reply.error for reply in found):
                raise LabError(found[0].error)
            for i, reply in zip(some, found, strict=True):
                replies[i] = reply
                if keep:
                    keep.put(names[i], reply)
        return [reply for reply in replies if reply is not None]

    def _decode(self, ask: Ask) -> Decoding:
        """Likelihoods are read at once; otherwise the answer is held to the schema."""
        if ask.options:
            return replace(self._decoding, max_tokens=1)
        temperature = self._turn_temperature if ask.turn else 0.0
        return replace(self._decoding, json_schema=ask.schema, temperature=temperature, seed=self._decoding.seed + ask.turn)

    def _request(self, id_: str, ask: Ask) -> Request:
        if not self.plain:
            return Request(id=id_, messages=ask.messages, decoding=self._decode(ask))
        text = "\n\n".join(message.content for message in ask.messages)
        return Request(id=id_, prompt=f"{text}\n\nReply:\n", decoding=self._decode(ask))

    def _replies(self, asks: Sequence[Ask]) -> list[Reply]:
        requests = [self._request(str(i), ask) for i, ask in enumerate(asks)]
        begun = self.engine.now()
        found = self._by_likelihood(requests, asks[0].options) if asks[0].options else self._by_answer(requests)
        spent = (self.engine.now() - begun) / len(asks)
        return [replace(reply, seconds=spent) for reply in found]

    def _by_likelihood(self, requests: list[Request], options: Sequence[str]) -> list[Reply]:
        branches = [self.engine.tokenize(option) for option in options]
        room = int(getattr(self.engine, "_scoring_limit", self.engine.context_tokens))
        asked: list[tuple[int, Branching]] = []
        replies = [Reply()] * len(requests)
        for i, request in enumerate(requests):
            try:
                tokens = self.engine.prompt_tokens(request)
                if len(tokens) + sum(map(len, branches)) > room:
                    raise LabError(f"The prompt of {len(tokens):,} tokens does not fit the {room:,} that this judge reads at "
                                   "once; give shorter answers, or judge by answer with a larger context.")
                asked.append((i, (tokens, branches)))
            except LabError as error:
                replies[i] = Reply(error=str(error))
        done = branch_logprobs_many(self.engine, [branching for _, branching in asked])
        for at, found in tqdm(done, total=len(asked), desc=f"judging by {self.name}", leave=False, disable=None):
            i, branching = asked[at]
            masses = [math.exp(float(logprobs.sum())) for logprobs in found]
            total = math.fsum(masses)
            shares = tuple(mass / total for mass in masses) if total > 0 else ()
            replies[i] = Reply(probabilities=shares, option_mass=total, prompt_tokens=len(branching[0]), output_tokens=0,
                               error="" if shares else "gave no option any probability")
        return replies

    def _by_answer(self, requests: list[Request]) -> list[Reply]:
        kind = self.engine.settings.get("engine")
        if kind == "llama_cpp":
            return _scheduled(self.engine, requests, self.name)
        workers = self._concurrency if kind in REMOTE else 1
        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(lambda request: _reply(lambda: generate(self.engine, request)), requests)
            return list(tqdm(done, total=len(requests), desc=f"judging by {self.name}", leave=False, disable=None))

    def close(self) -> None:
        self.engine.close()


def _reply(ask: Callable[[], Generation]) -> Reply:
    try:
        return _read(ask())
    except LabError as error:
        return Reply(error=str(error))


def _read(generation: Generation) -> Reply:
    usage = generation.usage
    count = usage.output_tokens if usage.output_tokens is not None else len(generation.tokens_at_s)
    return Reply(text=generation.text, error=generation.error or "", prompt_tokens=usage.prompt_tokens, output_tokens=count)


def _scheduled(engine: Engine, requests: list[Request], name: str) -> list[Reply]:
    """Decode all requests in one batch, what they have in common read once."""
    from lab.engines.llama.context import Context
    from lab.engines.scheduling.prefix import TieredPrefixCache
    from lab.engines.scheduling.scheduler import Scheduler
    from lab.load.scheduled import closed_loop

    replies = [Reply()] * len(requests)
    work: list[tuple[int, tuple[Request, list[int]]]] = []
    for i, request in enumerate(requests):
        try:
            tokens = engine.prompt_tokens(request)
            if len(tokens) + request.decoding.max_tokens > engine.context_tokens:
                raise LabError(f"The prompt of {len(tokens):,} tokens and the verdict do not fit the judge's context of "
                               f"{engine.context_tokens:,}; give shorter answers or a larger context.")
            work.append((i, (request, tokens)))
        except LabError as error:
            replies[i] = Reply(error=str(error))
    if not work:
        return replies
    running = min(RUNNING, len(work))
    longest = max(len(tokens) + request.decoding.max_tokens for _, (request, tokens) in work)
    cells = max(longest + 256, min(engine.context_tokens, running * longest + 1024))
    shared = ("threads", "threads_batch", "flash_attention", "kv_type", "ubatch_tokens")
    context = Context(engine.weights, context_tokens=cells, sequences=running + PREFIXES,  # type: ignore[attr-defined]
                      batch_tokens=512, **{name: engine.settings[name] for name in shared})  # type: ignore[arg-type]
    try:
        scheduler = Scheduler(context, max_running=running, first_slot=PREFIXES,
                              cache=TieredPrefixCache(context, slots=PREFIXES, keep_output=False))
        first = closed_loop(scheduler, [asked for _, asked in work[:1]], 1)  # what it leaves behind the others begin with
        jobs = [*first, *closed_loop(scheduler, [asked for _, asked in work[1:]], running, limit_s=math.inf,
                                     title=f"judging by {name}")]
        for (i, _), job in zip(work, jobs, strict=True):
            replies[i] = _read(job.generation())
    finally:
        context.close()
    return replies


def identity(engine: Engine) -> str:
    """What decides the replies of a model: its file or address and the settings that change them; "" for a script."""
    settings = dict(engine.settings)
    kind = settings.get("engine")
    if kind == "scripted":
        return ""
    matter = {name: value for name, value in sorted(settings.items()) if name not in _NO_MATTER}
    file = getattr(engine, "file", None)
    where = file.sha256 if file is not None else settings.get("url", "")
    version = importlib.metadata.version("llama-cpp-python") if kind == "llama_cpp" else ""
    if kind == "server" and getattr(engine, "_owner", None) is not None:
        return ""  # a server started here has another address each time
    return f"{where} {version} {matter}"
