"""A release ready to answer in this process: its files proven, its guards made, its engine open."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.engines.http.asked import Asked, Refusal, read_asked
from lab.errors import LabError
from lab.ops.gateway.backends import Backend
from lab.ops.versions import Resolved
from lab.records import Decoding, Message
from lab.retrieval import Index
from lab.safety import Chain, Checked, Decision, Rule

BLOCKING_CHARACTERS = 4000
"""A longer text is guarded beside the event loop, whose streams would stall over it."""


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A conversation after the input guards. `blocked` are the words the user sees in place of an answer."""

    turns: tuple[Message, ...]
    blocked: str = ""
    decisions: tuple[Decision, ...] = ()
    instructions: tuple[str, ...] = ()
    disclaimers: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """What a rule that answers under a policy took the question to be about; "" when none did."""
        return next((one.category for one in self.decisions if one.action == "answer_under_policy"), "")


@dataclass(eq=False, kw_only=True)
class Serving:
    """`open` counts the answers that are being made with it; while there are any it is not closed."""

    resolved: Resolved
    chain: Chain
    backend: Backend
    index: Index | None = None
    open: int = 0
    _slow: dict[tuple[str, str], bool] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return self.resolved.release.number

    @functools.cached_property
    def digest(self) -> str:
        return self.resolved.release.digest

    @property
    def name(self) -> str:
        """What the log calls the release."""
        return f"release {self.number}"

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"release-{self.number}-{self.digest[:8]}"

    @property
    def model(self) -> str:
        return self.resolved.release.model.name

    def rules(self, stage: str, role: str) -> list[Rule]:
        return [rule for rule in self.chain.policy.rules if stage in rule.on and (not rule.roles or role in rule.roles)]

    def slow(self, stage: str, role: str) -> bool:
        """Whether a rule asks a second model, or may be waited for: never in the event loop."""
        known = self._slow.get((stage, role))  # not a cache of the class: that would keep dropped releases and their engines
        if known is None:
            known = self._slow[stage, role] = any(
                rule.timeout_s is not None or rule.action == "rewrite" for rule in self.rules(stage, role))
        return known

    def waits(self, turns: Sequence[Message], role: str) -> bool:
        """Whether preparing this conversation has to happen beside the event loop."""
        return (self.slow("input", role) or self.index is not None
                or sum(len(turn.content) for turn in turns) > BLOCKING_CHARACTERS)

    def guarded(self, turns: Sequence[Message], role: str, session: str) -> Guarded:
        """Every turn that is not the model's own through the input guards: a client may forge earlier ones."""
        passed, decisions = list[Message](), list[Decision]()
        told: dict[str, None] = {}
        said: dict[str, None] = {}
        for turn in turns:
            if turn.role == "assistant":
                passed.append(turn)
                continue
            checked: Checked = self.chain.input(turn.content, role=role, session=session)
            decisions += checked.decisions
            if checked.blocked:
                return Guarded(turns=(), blocked=checked.text, decisions=tuple(decisions))
            told |= dict.fromkeys(checked.instructions)
            said |= dict.fromkeys(checked.disclaimers)
            passed.append(dataclasses.replace(turn, content=checked.text))
        return Guarded(turns=tuple(passed), decisions=tuple(decisions), instructions=tuple(told), disclaimers=tuple(said))

    def read(self, given: Mapping[str, Any], guarded: Guarded, id_: str, most_tokens: int) -> Asked:
        """What to decode: the release's prompt and settings with what the client may set. Raises `Refusal`."""
        context = self._context(guarded.turns)
        messages = self.resolved.messages(guarded.turns, context=context, instructions=guarded.instructions)
        own = {name: value for name, value in given.items() if value is not None}
        limited = "max_tokens" in own or "max_completion_tokens" in own
        whole = {**{name: value for name, value in self._defaults.items() if name != "max_tokens" or not limited}, **own}
        asked = read_asked({**whole, "messages": [{"role": m.role, "content": m.content} for m in messages]},
                           self.backend.served, chat=True, id_=id_)
        if most_tokens and asked.request.decoding.max_tokens > most_tokens:
            raise Refusal(f"This key may ask for at most {most_tokens:,} output tokens, not "
                          f"{asked.request.decoding.max_tokens:,}; set max_tokens.", param="max_tokens")
        if self.backend.in_process:
            return asked
        # Its tokenizer is elsewhere: it is sent the conversation.
        return dataclasses.replace(asked, request=dataclasses.replace(asked.request, tokens=None, messages=messages))

    @functools.cached_property
    def _defaults(self) -> dict[str, Any]:
        """The release's decoding settings as fields of a request."""
        how, off = self.resolved.decoding, Decoding()
        found: dict[str, Any] = {"max_tokens": how.max_tokens, "temperature": how.temperature}
        found |= {name: getattr(how, name) for name in ("top_p", "top_k", "min_p", "seed", "ignore_eos")
                  if getattr(how, name) != getattr(off, name)}
        if how.stop:
            found["stop"] = list(how.stop)
        if how.json_schema:
            schema = json.loads(how.json_schema)
            found["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return found

    def _context(self, turns: Sequence[Message]) -> str:
        """The passages that belong to the last question; "" without retrieval."""
        found = self.resolved.release.retrieval
        question = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
        if self.index is None or found is None or not question:
            return ""
        return "\n\n".join(one.passage.text for one in self.index.search(question, found.passages))


def refuse_role(serving: Serving, role: str) -> None:
    """Raise `Refusal` when the policy of the release does not know the role of a key."""
    roles = serving.chain.policy.roles
    if role not in roles:
        raise Refusal(f"The policy of {serving.name} has no role '{role}', which this key has; its roles are {', '.join(roles)}.",
                      status=403, kind="permission_error", code="role")


def unavailable(error: LabError) -> Refusal:
    """No release can answer now."""
    return Refusal(str(error), status=503, kind="server_error", code="no_release", headers=[(b"retry-after", b"5")])
