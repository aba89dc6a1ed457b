"""What a release takes over from the trials that measured a configuration, and what they do not say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lab import gguf_header, models
from lab.errors import LabError
from lab.ops import history
from lab.ops.versions import creating
from lab.ops.versions.creating import Created
from lab.ops.versions.prompts import written
from lab.records import Decoding, Generation
from lab.safety import policy as policies

AS_IT_IS = "as it is"
BENCHMARK = ("context_tokens",)
"""Engine settings that a benchmark makes just large enough for its own requests; a release has the engine's default."""
USUAL_ROOM = 4096
"""Tokens that an engine here has room for by default, or what the model was trained for where that is less."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a release as they were measured. `missing` says what no trial tells: while it is not empty, no release."""

    model: str = ""
    engine: str = ""
    engine_settings: Mapping[str, Any] = field(default_factory=dict)
    decoding: Decoding = Decoding()
    prompt: str = ""
    policy: str = policies.DEFAULT
    runs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    """What will be served otherwise than it was measured."""


def parts(trials: pd.DataFrame) -> Parts:
    """What the trials (rows of a frame) of one configuration say of a release; the first that says something is believed."""
    if trials.empty:
        raise LabError("No trial was given; a release is made from the trials that measured it.")
    missing, cautions = list[str](), list[str]()
    engine = _said(trials, "engine")
    if not engine:
        missing.append("The engine: no trial names the one that answered.")
    try:
        model = _model(trials, engine)
    except LabError as error:
        model = ""
        missing.append(f"The model file: {error}")
    answers = next((found for run_id in trials["run_id"] if (found := history.generations(str(run_id)))), [])
    decoding, prompt = _asked(answers, _said(trials, "temperature"), cautions)
    if not prompt:
        cautions.append("It was measured without a system prompt; the release's prompt is new to these figures.")
    cautions += [f"It was measured with {name.replace('_', ' ')} {text}, made for the benchmark's requests; the release has the "
                 "engine's default." for name in BENCHMARK if (text := _said(trials, name))]
    policy = _said(trials, "policy")
    if not policy:
        cautions.append(f"No guard was measured with it; the release gets the policy '{policies.DEFAULT}'.")
    return Parts(
        model=model, engine=engine, engine_settings=_settings(trials, engine) if engine else {}, decoding=decoding,
        prompt=prompt, policy=policy or policies.DEFAULT, runs=tuple(map(str, trials["run_id"])), missing=tuple(missing),
        cautions=tuple(cautions))


def create(given: Parts, *, prompt: str, name: str, note: str, by: str, policy: str = "", max_tokens: int = 0) -> Created:
    """Make the release of these parts with the text of a system prompt, kept in the registry as `name`. Raises `LabError`."""
    if given.missing:
        raise LabError(f"No release can be made of this. {' '.join(given.missing)}")
    decoding = dataclasses.replace(given.decoding, max_tokens=max_tokens or given.decoding.max_tokens)
    if (room := room_of(given)) and decoding.max_tokens >= room:
        raise LabError(f"A longest answer of {decoding.max_tokens:,} tokens leaves no room for a prompt in the context of "
                       f"{room:,} tokens; give a shorter one.")
    return creating.create(
        prompt=written(name, prompt), model=given.model, policy=policy or given.policy, decoding=decoding, engine=given.engine,
        engine_settings=given.engine_settings, runs=given.runs, note=note, by=by)


def room_of(given: Parts) -> int:
    """Tokens of prompt and answer together that one request of the release has room for; 0 where that is not known here."""
    if given.engine != "llama_cpp" or not given.model:
        return USUAL_ROOM if given.engine == "scripted" else 0
    return min(USUAL_ROOM, gguf_header.read(models.find(given.model).path).context_tokens or USUAL_ROOM)


def _said(trials: pd.DataFrame, name: str) -> str:
    """The first value of a setting; whole floats without their `.0`."""
    values = trials[f"params.{name}"].dropna() if f"params.{name}" in trials else []
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values]
    return next((text for text in texts if text not in ("", "None", "–")), "")


def _model(trials: pd.DataFrame, engine: str) -> str:
    """A name, path or URL for `create`: of a file exactly the bytes that were measured, where the trial kept their hash."""
    if engine == "server":
        if url := _said(trials, "url"):
            return url
        raise LabError("the trial does not name the server's URL.")
    named = _said(trials, "model")
    if not named:
        raise LabError("no trial names the model.")
    if engine == "scripted":
        return named
    column = "tags.lab.note.sha256"
    hashes = list(trials[column].dropna()) if column in trials else []
    rung = _said(trials, "rung")
    source = models.find(named)
    if not rung or rung == AS_IT_IS:
        if hashes and source.sha256 != hashes[0]:
            raise LabError(f"{named} is not the file that was measured (sha256 {hashes[0][:12]}, now {source.sha256[:12]}).")
        return named
    found = _rungs(source, rung)
    kept = [path for path in found if not hashes or models.sha256(path) == hashes[0]]
    if len(kept) != 1:
        what = "is not here any more" if not found else "is not the one that was measured" if not kept else "is ambiguous"
        raise LabError(f"{rung} of {named} {what}; make it again with `lab run quantization --model {named} --rungs {rung}`.")
    return str(kept[0])


def _rungs(source: models.ModelFile, rung: str) -> Sequence[Path]:
    folder = models.cache_dir() / "ladder" / source.sha256[:16]
    return sorted(folder.glob(f"{rung}-*.gguf"))


def _asked(answers: Sequence[Generation], temperature: str, cautions: list[str]) -> tuple[Decoding, str]:
    """How the trial's first request was decoded and which system prompt it had."""
    if not answers:
        return Decoding(temperature=float(temperature or 0)), ""
    request = answers[0].request
    decoding, system = request.decoding, [m.content for m in request.messages or () if m.role == "system"]
    if decoding.ignore_eos:
        cautions.append("It was measured with answers of a fixed length; the release's answers end where the model ends them.")
    if decoding.json_schema:
        cautions.append("It was measured with answers bound to a JSON schema; the release's are free.")
    return dataclasses.replace(decoding, ignore_eos=False, json_schema=""), system[0] if system else ""


def _settings(trials: pd.DataFrame, engine: str) -> dict[str, Any]:
    """The engine's settings as they were measured; one that `create` does not know is none of the engine's, and one that
    the benchmark chose for its own requests is left to the engine."""
    known = [name for name in creating.settings_of(engine) if name not in BENCHMARK]
    return {name: creating.value_of(text) for name in known if (text := _said(trials, name))}
