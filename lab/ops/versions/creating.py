"""Making releases and finding them: the same content twice is the same release."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import importlib
import inspect
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import engines, safety
from lab.errors import LabError
from lab.ops import history
from lab.ops.versions import files, kept, prompts, registry, release
from lab.ops.versions.release import PolicyText, Release
from lab.ops.versions.state import ALIASES, State
from lab.records import Decoding, Settings
from lab.safety import policy as policies

NAME = "release"
ABOUT = "Releases of LLM lab workbench: one version of prompt, model, index, decoding, policy and engine. See `lab release list`."


@dataclass(frozen=True, kw_only=True)
class Created:
    """A release, and whether it is `new`; `attached` are the runs that were added to it as evidence."""

    release: Release
    new: bool
    attached: tuple[str, ...] = ()


def create(
    *, prompt: str, model: str, policy: str = policies.DEFAULT, decoding: Mapping[str, str] | Decoding = Decoding(),
    engine: str = "llama_cpp", engine_settings: Mapping[str, Any] | None = None, embedding: str = "", index: str = "",
    passages: int = 3, runs: Sequence[str] = (), note: str = "", by: str = "", copy: bool = False,
) -> Created:
    """Register what is new of the parts and bind them; the release that has this content already is given back.

    `prompt` is a file or NAME@VERSION, `model` a catalogue name, path or URL, `policy` a name or file, `index` the folder of
    a saved retrieval index with its `embedding` model. `runs` are trials that measured this. Raises `LabError`.
    """
    for text in (model, *map(str, (engine_settings or {}).values())):
        if engines.is_url(text):
            engines.refuse_url(text)
    settings = _engine_settings(engine, engine_settings or {})
    how = decoding if isinstance(decoding, Decoding) else read_decoding(decoding)
    if bool(embedding) != bool(index):
        raise LabError("Retrieval takes both --embedding and --index: the model, and the folder of an index made with it.")
    guard = _policy(policy)
    evidence = trials(runs)
    with one_at_a_time():
        made = Release(
            prompt=prompts.prompt(prompt), model=files.register_model(model, engine=engine, copy=copy), policy=guard,
            decoding=how, engine=engine, engine_settings=settings, note=note, by=by or whoami(),
            retrieval=files.register_index(embedding, index, passages=passages, copy=copy) if index else None)
        known = _of_digest(made.digest)
        if known is None:
            tags = {**release.written(made), "lab.runs": json.dumps(evidence)}
            number = registry.append(NAME, tags, source=f"lab-release:/{made.digest}", about=ABOUT, says=summary(made))
            known = _of_digest(made.digest) or made  # another machine may have been first
            return Created(release=known, new=known.number == number, attached=tuple(evidence))
        fresh = tuple(run for run in evidence if run not in known.runs)
        return Created(release=attach(known, fresh) if fresh else known, new=False, attached=fresh)


def attach(to: Release, runs: Sequence[str]) -> Release:
    """Attach further trial runs to a release as evidence; its content and hash stay what they are."""
    every = tuple(dict.fromkeys((*to.runs, *trials(runs))))
    registry.tag(NAME, to.number, "lab.runs", json.dumps(every))
    return dataclasses.replace(to, runs=every)


def listed() -> tuple[list[Release], list[str]]:
    """All releases, oldest first, and a sentence for each that cannot be read. Of two with one content the first counts."""
    found, broken = dict[str, Release](), list[str]()
    for entry in registry.entries(NAME):
        if entry.deleted:
            continue
        try:
            one = release.read(entry.tags, entry.number, entry.at_ms)
            found.setdefault(one.digest, one)
        except LabError as error:
            broken.append(str(error))
    return list(found.values()), broken


def find(reference: str | int, state: State) -> Release:
    """The release of a number, of an alias (as `state` has them), or of the beginning of a hash. Raises `LabError`."""
    wanted = str(reference)
    if wanted in ALIASES:
        number = getattr(state, wanted)
        if number is None:
            raise LabError(f"No release is {wanted}; `lab release list` shows what there is.")
        wanted = str(number)
    if wanted.isdigit():
        return numbered(int(wanted))
    if re.fullmatch("[0-9a-f]{6,64}", wanted):
        matching = [one for one in listed()[0] if one.digest.startswith(wanted)]
        if len(matching) == 1:
            return matching[0]
    raise LabError(f"There is no release '{reference}'; give a number, {', '.join(ALIASES)}, or the beginning of a hash.")


def numbered(number: int) -> Release:
    """The release of this number. Raises `LabError` when there is none, or it was deleted or changed in the store."""
    entry = next((e for e in registry.entries(NAME) if e.number == number and not e.deleted), None)
    if entry is None:
        raise LabError(f"There is no release {number} in this store; `lab release list` shows what there is.")
    return release.read(entry.tags, entry.number, entry.at_ms)


def summary(one: Release) -> str:
    """A release in one line."""
    parts = [f"prompt {one.prompt.name}@{one.prompt.version}", f"model {one.model.name}",
             f"policy {one.policy.name} v{one.policy.version}", f"temperature {one.decoding.temperature:g}", one.engine]
    return ", ".join([*parts, *([f"index {one.retrieval.name}"] if one.retrieval else [])])


def trials(runs: Sequence[str]) -> list[str]:
    """The trial runs behind ids or their beginnings; an experiment run counts where it has a single trial."""
    if not runs:
        return []
    frame = history.frame("trial")
    ids = list(frame["run_id"])
    out = []
    for run in runs:
        found = [i for i in ids if i.startswith(run)] if len(run) >= 4 else []
        if not found and len(frame):
            found = list(frame.loc[frame["parent_id"].str.startswith(run), "run_id"]) if len(run) >= 4 else []
            if len(found) > 1:
                names = dict(zip(frame["run_id"], frame["name"], strict=True))
                raise LabError(f"Run {run} has {len(found)} trials; give the one that measured this release: "
                               f"{', '.join(f'{i[:8]} ({names[i]})' for i in found[:8])}.")
        if len(found) != 1:
            raise LabError(f"There is no trial run {run!r} in this store" + (" (several begin so)" if found else "") +
                           "; the id stands on the page Compare and at the end of `lab run`.")
        out.append(str(found[0]))
    return list(dict.fromkeys(out))


def read_decoding(given: Mapping[str, str]) -> Decoding:
    """Decoding settings from text; the rest as they are by default. Raises `LabError` naming what there is."""
    known = {f.name: f for f in dataclasses.fields(Decoding)}
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise LabError(f"There is no decoding setting '{name}'; there are {', '.join(known)}.")
        default = getattr(Decoding(), name)
        value: Any = value_of(text)
        if isinstance(default, tuple):
            value = (text.encode().decode("unicode_escape"),) if text else ()
        elif isinstance(default, str):
            value = text
        elif isinstance(default, bool) != isinstance(value, bool) or isinstance(value, str) or (
                isinstance(default, int) and not isinstance(value, int)):
            raise LabError(f"--decoding {name} takes {_kind(default)}, not '{text}'.")
        values[name] = float(value) if isinstance(default, float) else value
    made = Decoding(**values)
    sound = made.max_tokens >= 1 and 0 <= made.temperature < math.inf and 0 < made.top_p <= 1 and made.top_k >= 0
    if not sound or not 0 <= made.min_p <= 1:
        raise LabError("Decoding takes max_tokens from 1, temperature from 0, top_p above 0 to 1, top_k from 0, min_p 0 to 1.")
    return made


def whoami() -> str:
    """Who is at the keyboard: `LAB_USER`, else the login name."""
    with contextlib.suppress(OSError, KeyError):
        return os.environ.get("LAB_USER") or getpass.getuser()
    return "unknown"


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """One creation or move at a time on this machine; where no lock can be made the store's own order must do."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(kept.locked(kept.folder()))
        yield


def _of_digest(digest: str) -> Release | None:
    entry = next((e for e in registry.entries(NAME) if e.tags.get("lab.digest") == digest and not e.deleted), None)
    return None if entry is None else release.read(entry.tags, entry.number, entry.at_ms)


def _policy(given: str) -> PolicyText:
    parsed = safety.load(given)
    path = policies.FOLDER / f"{given}.yaml" if given in safety.names() else Path(given).expanduser()
    return PolicyText(name=parsed.name, version=parsed.version, sha256=parsed.sha256, text=path.read_bytes().decode())


def _engine_settings(engine: str, given: Mapping[str, Any]) -> Settings:
    if engine not in engines.names():
        raise LabError(f"There is no engine '{engine}'; the engines are {', '.join(engines.names())}.")
    known = settings_of(engine)
    if unknown := [name for name in given if name not in known]:
        raise LabError(f"Engine '{engine}' has no setting '{unknown[0]}'; it has {', '.join(known)}.")
    return {name: value_of(value) if isinstance(value, str) else value for name, value in sorted(given.items())}


def settings_of(engine: str) -> list[str]:
    """The settings that an engine's `open` takes, or, where that hands them on, the class it opens."""
    module = importlib.import_module(f"lab.engines.{engine}")
    signature = inspect.signature(module.open)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        signature = inspect.signature(getattr(module, str(signature.return_annotation)))
    return [name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]


def value_of(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _kind(default: object) -> str:
    return "true or false" if isinstance(default, bool) else "a whole number" if isinstance(default, int) else "a number"
