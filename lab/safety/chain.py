"""The chain: the rules of one policy, in their order, over what comes in, what goes out, and what a model wants to do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from lab.engines import Engine
from lab.errors import LabError
from lab.safety import guards
from lab.safety.confirmation import Pending, shown
from lab.safety.decisions import FAILED, Action, Checked, Decision, Guard, Record, Stage, ToolCall
from lab.safety.flow import Flow
from lab.safety.policy import Policy, Rule, Tool
from lab.safety.tools import Budgets, leaves, refusal, replaced

Sink = Callable[[Record], None]
Ask = Callable[[Pending], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ruling:
    """Whether a tool call may be made, with which arguments (redacted, if a rule says so), and the decisions behind it."""

    allowed: bool
    call: ToolCall
    decisions: tuple[Decision, ...]
    reason: str = ""


class Chain:
    """Guards one application under one policy. Thread-safe; an answer on its way out has a `Flow` of its own.

    `sink` is given a `Record` of every decision; one that raises blocks, because a decision nobody can look up must not be
    made. `engines` are the second models that rules name. `made` puts a guard of your own in the place of a rule's.
    """

    def __init__(
        self, policy: Policy, *, sink: Sink | None = None, engines: Mapping[str, Engine] | None = None,
        made: Mapping[str, Guard] | None = None, clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy = policy
        self._sink, self._clock, self._budgets = sink, clock, Budgets()
        given = dict(made or {})
        self._guards: dict[str, Guard] = {}
        for rule in policy.rules:
            self._guards[rule.name] = given.get(rule.name) or guards.make(rule.guard, rule.settings, engines)
            if rule.name not in given and rule.timeout_s is None:
                self._guards[rule.name].scan("Hello.", 0, True)  # compiles and trains now, and names a missing package

    # Text

    def input(self, text: str, *, role: str = "user", session: str = "") -> Checked:
        """What a user wrote, on its way to the model."""
        rules = self._rules("input", role)
        flow = Flow(self._watched(rules), stage="input", message=self.policy.message, log=self._log(role, session))
        made = _whole(flow, text)
        hit = {decision.rule for decision in made.decisions}
        under = [rule for rule in rules if rule.action == "answer_under_policy" and rule.name in hit]
        return dataclasses.replace(made, instructions=tuple(rule.instruction for rule in under if rule.instruction),
                                   disclaimers=tuple(rule.disclaimer for rule in under if rule.disclaimer))

    def output(self, text: str, *, role: str = "user", session: str = "", disclaimers: Sequence[str] = ()) -> Checked:
        """A whole answer, on its way to the user."""
        stream = self.stream([text], role=role, session=session, disclaimers=disclaimers)
        out = "".join(stream)
        return Checked(text=stream.message if stream.blocked else out, original=text, blocked=stream.blocked,
                       decisions=tuple(stream.decisions), added_s=stream.added_s)

    def stream(
        self, chunks: Iterable[str], *, role: str = "user", session: str = "", disclaimers: Sequence[str] = ()
    ) -> Stream:
        """An answer in chunks; iterate over what may be shown. A block ends it with the words the user sees."""
        return Stream(self, chunks, role=role, session=session, disclaimers=disclaimers)

    def flow(self, *, role: str = "user", session: str = "") -> Flow:
        """An answer that is pushed piece by piece, for a caller that cannot hand over an iterator.

        Raises `LabError` when a rule rewrites answers of this role: that needs the whole answer, which `stream` waits for.
        """
        rules = self._rules("output", role)
        if second := [rule.name for rule in rules if rule.action == "rewrite"]:
            raise LabError(f"The rule '{second[0]}' rewrites whole answers, which cannot be pushed piece by piece; use `stream`.")
        return Flow(self._watched(rules), stage="output", message=self.policy.message, log=self._log(role, session))

    # Tools

    def tool(self, call: ToolCall, *, role: str = "user", session: str = "", ask: Ask | None = None) -> Ruling:
        """Whether `call` may be made. A risky one is handed to `ask` and waited for; with nobody to ask the answer is no."""
        log = self._log(role, session)
        self._known(role)
        decisions: list[Decision] = []

        def decide(rule: str, action: Action, reason: str = "", began: float = time.perf_counter()) -> Decision:
            decisions.append(log(Decision(rule=rule, action=action, stage="tool", reason=reason, message=self.policy.message
                                          if action == "block" else "", added_s=time.perf_counter() - began)))
            return decisions[-1]

        def refused(reason: str) -> Ruling:
            return Ruling(allowed=False, call=call, decisions=tuple(decisions), reason=reason)

        began = time.perf_counter()
        try:
            rule, reason = refusal(self.policy, call, role)
        except Exception as error:  # a schema that breaks its validator must not let the call through
            rule, reason = "tool arguments", f"{FAILED}: it raised {type(error).__name__}"
        if rule:
            decide(rule, "block", reason, began)
            return refused(reason)
        tool = self.policy.tool(call.name)
        assert tool is not None
        if not self._budgets.take(tool, session):
            reason = f"the session has made its {tool.calls_per_session} calls of '{tool.name}'"
            decide("tool budget", "block", reason, began)
            return refused(reason)
        checked, why, blocked = self._arguments(call, role, session, decisions)
        if blocked:
            self._budgets.give_back(tool, session)
            return refused(blocked)
        if tool.confirm or why:
            reason = self._confirmed(checked, tool, ask, why)
            if decide("confirmation", "block" if reason else "confirm", reason, began).action == "block":
                self._budgets.give_back(tool, session)
                return refused(reason or "the log failed")
        elif not decisions and decide("", "allow", "", began).action == "block":
            self._budgets.give_back(tool, session)
            return refused("the log failed")
        return Ruling(allowed=True, call=checked, decisions=tuple(decisions))

    def _arguments(
        self, call: ToolCall, role: str, session: str, decisions: list[Decision]
    ) -> tuple[ToolCall, str, str]:
        """The call with its texts redacted, why a person must be asked, and why it is blocked."""
        rules = self._rules("tool", role)
        texts: dict[tuple[str | int, ...], str] = {}
        why = ""
        for path, text in leaves(call.arguments):
            flow = Flow(self._watched(rules), stage="tool", message=self.policy.message, log=self._log(role, session))
            made = _whole(flow, text)
            decisions += made.decisions
            if made.blocked:
                return call, "", made.decisions[-1].reason or f"the rule '{made.decisions[-1].rule}' blocks its arguments"
            asks = [decision for decision in made.decisions if decision.action == "confirm"]
            why = why or (f"{asks[0].rule}: {asks[0].evidence}" if asks else "")
            if path:
                texts[path] = made.text
            elif made.text != text:
                return call, "", f"the rule '{made.decisions[-1].rule}' would redact a key or a number, which cannot be replaced"
        return dataclasses.replace(call, arguments=replaced(call.arguments, texts)), why, ""

    def _confirmed(self, call: ToolCall, tool: Tool, ask: Ask | None, why: str) -> str:
        """Why the call must not be made; nothing when a person said yes."""
        if ask is None:
            return "it needs a person's yes, and nobody is there to ask"
        pending = Pending(call, shown(tool.shows, call), tool.timeout_s, why)
        try:
            ask(pending)
        except Exception as error:
            return f"{FAILED}: asking raised {type(error).__name__}"
        return pending.wait()[1]

    # The parts

    def _known(self, role: str) -> None:
        if role not in self.policy.roles:
            raise LabError(f"The policy '{self.policy.name}' has no role '{role}'; its roles are {', '.join(self.policy.roles)}.")

    def _rules(self, stage: Stage, role: str) -> list[Rule]:
        self._known(role)
        return [rule for rule in self.policy.rules if stage in rule.on and (not rule.roles or role in rule.roles)]

    def _watched(self, rules: Sequence[Rule]) -> list[tuple[Rule, Guard]]:
        return [(rule, self._guards[rule.name]) for rule in rules]

    def _log(self, role: str, session: str) -> Callable[[Decision], Decision]:
        """Writes a decision to the sink; gives it back, or a block when it could not be written."""
        def log(made: Decision) -> Decision:
            if self._sink is None:
                return made
            try:
                self._sink(Record(
                    at_s=self._clock(), policy=self.policy.name, policy_version=self.policy.version, rule=made.rule,
                    policy_sha256=self.policy.sha256, action=made.action, stage=made.stage, category=made.category,
                    evidence=made.evidence, reason=made.reason, added_s=made.added_s, role=role, session=session))
            except Exception as error:
                return dataclasses.replace(made, action="block", message=self.policy.message,
                                           reason=f"{FAILED}: the log raised {type(error).__name__}")
            return made

        return log


class Stream:
    """The chunks of one answer that may be shown. Read the rest of it when the iteration is over.

    With a rule that rewrites nothing is shown before the whole answer is there. The other rules then look twice: at what the
    model wrote, and at what the second model wrote in its place.
    """

    def __init__(self, chain: Chain, chunks: Iterable[str], *, role: str, session: str, disclaimers: Sequence[str]) -> None:
        rules = chain._rules("output", role)
        self._chain, self._chunks, self._disclaimers = chain, chunks, disclaimers
        self._log = chain._log(role, session)
        self._plain = chain._watched([rule for rule in rules if rule.action != "rewrite"])
        self._second = chain._watched([rule for rule in rules if rule.action == "rewrite"])
        self._done: list[Flow] = []
        self._flow = self._new(self._plain)
        self._original: list[str] = []

    @property
    def decisions(self) -> list[Decision]:
        return [decision for flow in self._done for decision in flow.decisions]

    @property
    def blocked(self) -> bool:
        return any(flow.blocked for flow in self._done)

    @property
    def message(self) -> str:
        """What the user sees where the answer was blocked."""
        return next((flow.message for flow in self._done if flow.blocked), "")

    @property
    def added_s(self) -> float:
        """Seconds of work that the chain added, waiting for more text not included."""
        return sum(flow.added_s for flow in self._done)

    @property
    def most_held(self) -> int:
        """The most characters that were held back at a time."""
        return sum(map(len, self._original)) if self._second else self._flow.most_held

    @property
    def original(self) -> str:
        """What the model wrote, as far as it came: for an operator, never for the user."""
        return "".join(self._original)

    def __iter__(self) -> Iterator[str]:
        held = list[str]()
        shown = False
        try:
            for chunk in self._chunks:
                self._original.append(chunk)
                out = self._flow.push(chunk)
                held.append(out)
                if out and not self._second:
                    shown = True
                    yield out
                if self._flow.blocked:
                    break
        finally:
            if (close := getattr(self._chunks, "close", None)) is not None:
                close()  # a model that is still writing can stop
        last = self._flow.end()
        if self._second and not self._flow.blocked:
            last = self._rewritten("".join(held) + last)
        if not self.decisions:
            self._flow.note_allowed()
        if self.blocked:
            last = ("\n\n" if shown else "") + self.message
        elif self._disclaimers:
            last += "\n\n" + "\n".join(self._disclaimers)
        if last:
            yield last

    def _rewritten(self, text: str) -> str:
        """The answer after the second model; a new one passes all other rules again."""
        for rule, guard in self._second:
            flow = self._new([(rule, guard)])
            flow.push(text)
            flow.end()
            if flow.blocked:
                return ""
            replacement = flow.replacement
            if replacement is not None:
                again = self._new(self._plain)
                text = again.push(replacement) + again.end()
                if again.blocked:
                    return ""
        return text

    def _new(self, watched: Sequence[tuple[Rule, Guard]]) -> Flow:
        flow = Flow(watched, stage="output", message=self._chain.policy.message, log=self._log)
        self._done.append(flow)
        return flow


def _whole(flow: Flow, text: str) -> Checked:
    """A whole text through a flow; nothing of a blocked one goes on."""
    out = flow.push(text) + flow.end()
    if not flow.decisions:
        flow.note_allowed()
    return Checked(text=flow.message if flow.blocked else out, original=text, blocked=flow.blocked,
                   decisions=tuple(flow.decisions), added_s=flow.added_s)
