"""Proof that every byte of a release can still be loaded: each part is read, and what is wrong is said in a sentence."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab import engines, gguf_header, models, safety
from lab.engines import Engine
from lab.errors import LabError
from lab.ops import history
from lab.ops.versions import files, prompts, resolved
from lab.ops.versions.files import Hash
from lab.ops.versions.release import Model, Release
from lab.records import Message, Request
from lab.retrieval import index as indexes
from lab.safety import policy as policies


@dataclass(frozen=True, kw_only=True)
class Defect:
    """What is wrong with one part. `serving` ones keep a release from answering; others break a record beside it."""

    part: str
    sentence: str
    serving: bool = True


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was proven of a release, what is wrong, and what cannot be proven here."""

    release: int
    proven: tuple[str, ...]
    defects: tuple[Defect, ...]
    open: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return not self.defects

    def as_json(self) -> dict[str, object]:
        return {**dataclasses.asdict(self), "whole": self.whole}


def verify(release: Release, *, deep: bool = False) -> Report:
    """Read every file of `release` and hash it, parse the policy, read the GGUF header, and load the index.

    `deep` also opens the engine, has it read the prompt and give one token, makes the guards, and searches the index with
    its embedding model. All defects are found, not just the first.
    """
    return _report(release, [*_quick(release, files.hashed), *(_deep(release) if deep else [])])


def serving_defects(release: Release, *, hash_: Hash = models.sha256) -> list[str]:
    """What keeps `release` from answering, in sentences; files are hashed by `hash_`."""
    return [d.sentence for d in _report(release, _quick(release, hash_)).defects if d.serving]


def unopened(release: Release) -> str:
    """Why the engine of `release` does not open with its settings and give a token here, in a sentence; "" where it does."""
    found = [d.sentence for d in _report(release, [("one token", lambda: _token(release))]).defects]
    return f"its engine does not open here ({found[0].rstrip('.')})" if found else ""


Check = tuple[str, Callable[[], str]]
"""A part, and what proves it: returns what was proven, raises `LabError` with the defect."""


class _Beside(LabError):
    """A defect that keeps no release from answering."""


class _Open(Exception):
    """Something that cannot be proven here."""


def _report(release: Release, checks: list[Check]) -> Report:
    proven, defects, open_ = list[str](), list[Defect](), list[str]()
    for part, check in checks:
        try:
            proven.append(f"{part}: {check()}")
        except _Open as unproven:
            open_.append(f"{part}: {unproven}")
        except LabError as error:
            defects.append(Defect(part=part, sentence=str(error), serving=not isinstance(error, _Beside)))
        except OSError as error:
            defects.append(Defect(part=part, sentence=f"{error.filename or part} cannot be read ({error.strerror})."))
    return Report(release=release.number, proven=tuple(proven), defects=tuple(defects), open=tuple(open_))


def _quick(release: Release, hash_: Hash) -> list[Check]:
    found = release.retrieval
    checks: list[Check] = [("prompt", lambda: _prompt(release)), ("model", lambda: _model(release.model, hash_)),
                           ("policy", lambda: _policy(release)), ("engine", lambda: _engine(release))]
    if found is not None:
        checks += [("embedding model", lambda: f"sha256 {files.embedding_of(found, hash_).sha256[:12]}, every file as it was"),
                   ("index", lambda: _index(release, hash_))]
    return [*checks, *([("evidence", lambda: _evidence(release))] if release.runs else [])]


def _deep(release: Release) -> list[Check]:
    checks: list[Check] = [("one token", lambda: _token(release)), ("guards", lambda: _guards(release))]
    return checks + ([("search", lambda: _search(release))] if release.retrieval else [])


def _prompt(release: Release) -> str:
    one = release.prompt
    if not prompts.registered(one):
        raise _Beside(f"Prompt {one.name}@{one.version} was deleted from the registry or changed in it; the release keeps its "
                      "text and can answer, register the prompt again to see it there.")
    return f"{one.name}@{one.version}, {len(one.text):,} characters, the same in the registry"


def _model(model: Model, hash_: Hash) -> str:
    if model.kind == "scripted":
        return "a scripted engine, which has no file"
    if model.kind == "served":
        raise _Open(f"the bytes behind {model.location} cannot be seen from here")
    path = files.model_path(model, hash_)
    header = gguf_header.read(path)
    if header.architecture != model.facts.get("architecture"):
        raise LabError(f"The header of {path} says {header.architecture}, not {model.facts.get('architecture')}; get it again.")
    return f"{path}, {model.bytes:,} bytes, sha256 {model.sha256[:12]}, header of {len(header.tensors)} tensors"


def _policy(release: Release) -> str:
    one = policies.parse(release.policy.text, f"policy of {release.title}", release.policy.sha256)
    return f"{one.name} version {one.version}, {len(one.rules)} rules, sha256 {release.policy.sha256[:12]}"


def _engine(release: Release) -> str:
    if release.engine not in engines.names():
        raise LabError(f"The engine '{release.engine}' is not in this version of the workbench; the engines are "
                       f"{', '.join(engines.names())}.")
    return release.engine


def _index(release: Release, hash_: Hash) -> str:
    assert release.retrieval is not None
    folder = files.index_folder(release.retrieval, hash_)
    opened = indexes.load(folder, files.embedding_weights(release.retrieval.embedding_model))
    if opened.version != release.retrieval.index_version:
        raise LabError(f"The index in {folder} is version {opened.version}, not {release.retrieval.index_version}; build it "
                       "again.")
    return f"{folder}, {len(opened.passages):,} passages, version {opened.version}, made with these weights"


def _evidence(release: Release) -> str:
    trials = set(history.frame("trial")["run_id"])
    if gone := [run for run in release.runs if run not in trials]:
        raise _Beside(f"The trial run {gone[0]} attached as evidence was deleted; attach another with `lab release create "
                      "--runs`.")
    return f"{len(release.runs)} trial runs are in the store"


@contextlib.contextmanager
def _opened(release: Release) -> Iterator[tuple[resolved.Resolved, Engine]]:
    ready = resolved.load(release)
    engine = ready.open_engine()
    try:
        yield ready, engine
    finally:
        engine.close()


def _token(release: Release) -> str:
    with _opened(release) as (ready, engine):
        asked = Request(messages=ready.messages([Message(role="user", content="Hello")], context="A passage."),
                        decoding=dataclasses.replace(release.decoding, max_tokens=1, json_schema=""))
        prompt = _counted(engine, asked)
        done = engines.generate(engine, asked)
    if done.error:
        raise LabError(f"The engine gave no token ({done.error}); try it with `lab serve`.")
    return f"the engine read the prompt{prompt} and answered"


def _counted(engine: Engine, asked: Request) -> str:
    """The length of the prompt, where an engine has a tokenizer."""
    try:
        return f" of {len(engine.prompt_tokens(asked)):,} tokens"
    except (LabError, NotImplementedError):
        return ""


def _guards(release: Release) -> str:
    policy = policies.parse(release.policy.text, "policy", release.policy.sha256)
    named = {str(rule.settings["engine"]) for rule in policy.rules if "engine" in rule.settings}
    if not named:
        safety.Chain(policy)
    else:
        with _opened(release) as (_, engine):
            safety.Chain(policy, engines=dict.fromkeys(named, engine))
    return f"{len(policy.rules)} made"


def _search(release: Release) -> str:
    opened = resolved.load(release).open_index()
    assert opened is not None and release.retrieval is not None
    found = opened.search("hello", release.retrieval.passages)
    return f"{len(found)} passages found with {release.retrieval.embedding_model}"


