"""What differs between two releases, for people: prompt, settings, rules, model, index, and what was measured of both."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lab.ops.versions import evidence
from lab.ops.versions.evidence import Measured
from lab.ops.versions.release import PolicyText, Release
from lab.safety import policy as policies


@dataclass(frozen=True, kw_only=True)
class Changed:
    """One thing that is not the same; "–" is not there."""

    part: str
    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """From release `before` to release `after`. `prompt` is a unified diff, `rules` sentences about the policy."""

    before: Release
    after: Release
    prompt: tuple[str, ...]
    settings: tuple[Changed, ...]
    rules: tuple[str, ...]
    model: tuple[Changed, ...]
    retrieval: tuple[Changed, ...]
    measured: tuple[Measured, ...]
    unmeasured: tuple[str, ...]
    """Why nothing, or not everything, was compared: "not measured" in a sentence."""

    @property
    def same(self) -> bool:
        """Whether the two answer alike: the same content."""
        return self.before.digest == self.after.digest

    def as_json(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("before", "after", "measured")}
        shown = {name: [dataclasses.asdict(v) if isinstance(v, Changed) else v for v in values] for name, values in plain.items()}
        sides = {side: {"number": r.number, "digest": r.digest} for side, r in (("before", self.before), ("after", self.after))}
        return {**sides, "same": self.same, **shown, "measured": [m.as_json() for m in self.measured]}


def difference(before: Release, after: Release) -> Difference:
    """What changes when `after` takes the place of `before`. Metric changes come from the runs attached to both."""
    measured, unmeasured = evidence.compared(before, after)
    return Difference(
        before=before, after=after, prompt=tuple(_prompt(before, after)), settings=tuple(_settings(before, after)),
        rules=tuple(_rules(before.policy, after.policy)), model=tuple(_model(before, after)),
        retrieval=tuple(_retrieval(before, after)), measured=tuple(measured), unmeasured=tuple(unmeasured))


def _prompt(before: Release, after: Release) -> Iterator[str]:
    one, other = before.prompt, after.prompt
    if one.text != other.text or one.chat != other.chat:
        yield from difflib.unified_diff(one.shown.splitlines(), other.shown.splitlines(), f"{one.name}@{one.version}",
                                        f"{other.name}@{other.version}", lineterm="")


def _settings(before: Release, after: Release) -> Iterator[Changed]:
    yield from _changes("decoding", dataclasses.asdict(before.decoding), dataclasses.asdict(after.decoding))
    yield from _changes("engine", *({"engine": r.engine, **r.engine_settings} for r in (before, after)))


def _model(before: Release, after: Release) -> Iterator[Changed]:
    one, other = before.model, after.model
    if before.content()["model"] != after.content()["model"]:
        yield from _changes("model", *({
            "name": m.name, "kind": m.kind, "sha256": m.sha256[:12], "bytes": m.bytes, **m.facts} for m in (one, other)))


def _retrieval(before: Release, after: Release) -> Iterator[Changed]:
    sides = [{} if r.retrieval is None else {
        "index": r.retrieval.name, "index_version": r.retrieval.index_version, "index_sha256": r.retrieval.index_sha256[:12],
        "embedding_model": r.retrieval.embedding_model, "embedding_files_sha256": r.retrieval.embedding_files_sha256[:12],
        "passages_given": r.retrieval.passages, **r.retrieval.facts} for r in (before, after)]
    yield from _changes("retrieval", *sides)


def _changes(part: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Changed]:
    for name in dict.fromkeys((*before, *after)):
        if name not in before or name not in after or before[name] != after[name]:
            yield Changed(part=part, name=name, before=_text(before.get(name)), after=_text(after.get(name)))


def _rules(before: PolicyText, after: PolicyText) -> Iterator[str]:
    """What a policy does otherwise, in sentences: rules and tools by name, then what stands above them."""
    if before.sha256 == after.sha256:
        return
    one, other = (policies.parse(p.text, p.name, p.sha256) for p in (before, after))
    for name in ("name", "version", "message", "roles"):
        if getattr(one, name) != getattr(other, name):
            yield f"The policy's {name} becomes {_text(getattr(other, name))} (was {_text(getattr(one, name))})."
    yield from _named("Rule", one.rules, other.rules)
    yield from _named("Tool", one.tools, other.tools)
    shared = [[rule.name for rule in p.rules if rule.name in {r.name for r in q.rules}] for p, q in ((one, other), (other, one))]
    if shared[0] != shared[1]:
        yield f"The rules run in another order: {', '.join(rule.name for rule in other.rules)}."
    if dataclasses.replace(one, sha256="", description="") == dataclasses.replace(other, sha256="", description=""):
        yield "The policy's file differs in its description, comments or spelling only; it does the same."


def _named(kind: str, before: Any, after: Any) -> Iterator[str]:
    old, new = ({one.name: one for one in side} for side in (before, after))
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield f"{kind} '{name}' is gone{_does(old[name])}."
        elif name not in old:
            yield f"{kind} '{name}' is new{_does(new[name])}."
        elif old[name] != new[name]:
            parts = [f"{f.name} {_text(getattr(new[name], f.name))} (was {_text(getattr(old[name], f.name))})"
                     for f in dataclasses.fields(new[name]) if getattr(old[name], f.name) != getattr(new[name], f.name)]
            yield f"{kind} '{name}' changes: {'; '.join(parts)}."


def _does(one: Any) -> str:
    if isinstance(one, policies.Rule):
        return f" ({one.guard} on {', '.join(one.on)}: {one.action})"
    return f" (for {', '.join(one.roles)})"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return repr(value) if "\n" in str(value) else str(value) or "none"
