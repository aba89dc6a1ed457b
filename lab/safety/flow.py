"""An answer on its way out: every rule looks at the growing text, and only what no rule needs any longer is let go.

Rules look at the text as it was written; overlapping findings are redacted as one. So what comes out does not depend on how the
text was cut into chunks. A block ends the stream; what left before it was certain to be allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.safety.decisions import FAILED, Action, Decision, Finding, Guard, Scan, Stage, places
from lab.safety.limits import look
from lab.safety.policy import Rule

CONTEXT = 64
"""Characters that stay in sight of a rule behind what it is done with; a word boundary needs one."""
Log = Callable[[Decision], Decision]


@dataclass
class _Watch:
    """One rule's progress: it has judged everything before `certain`."""

    rule: Rule
    guard: Guard
    certain: int = 0
    findings: list[Finding] = field(default_factory=list)


class Flow:
    """One text through the rules of one stage. `push` gives the text that may leave, `end` the rest."""

    def __init__(self, watched: Sequence[tuple[Rule, Guard]], *, stage: Stage, message: str, log: Log) -> None:
        self._watches = [_Watch(rule=rule, guard=guard) for rule, guard in watched]
        self._stage, self._message, self._log = stage, message, log
        self._text, self._base, self._left = "", 0, 0
        self.decisions: list[Decision] = []
        self.blocked = False
        self.message = ""
        """What the user sees once the flow is blocked."""
        self.replacement: str | None = None
        """What a second model wrote in place of the text."""
        self.added_s = 0.0
        self.most_held = 0
        """The most characters that were held back at a time."""

    def push(self, text: str) -> str:
        """Text that became certain with `text`."""
        if self.blocked or not text:
            return ""
        self._text += text
        return self._advance(ended=False)

    def end(self) -> str:
        """What was still held back, at the end of the text."""
        return "" if self.blocked else self._advance(ended=True)

    def note_allowed(self) -> None:
        """Log that nothing was found; a log that fails blocks what has not left yet."""
        made = self._log(Decision(rule="", action="allow", stage=self._stage, added_s=self.added_s))
        if made.action == "block":
            self.decisions.append(made)
            self.blocked, self.message = True, made.message

    def _advance(self, *, ended: bool) -> str:
        for watch in self._watches:
            if watch.certain < self._end or ended:
                self._look(watch, ended)
            if self.blocked:
                return self._release(self._until_block())
        certain = min((watch.certain for watch in self._watches), default=self._end)
        out = self._release(certain)
        self.most_held = max(self.most_held, self._end - self._left)
        return out

    @property
    def _end(self) -> int:
        return self._base + len(self._text)

    def _look(self, watch: _Watch, ended: bool) -> None:
        low = max(self._base, watch.certain - CONTEXT)
        part = self._text[low - self._base :]
        start = watch.certain - low
        looked = look(lambda: watch.guard.scan(part, start, ended), watch.rule.timeout_s)
        self.added_s += looked.seconds
        if looked.scan is None or not _sound(looked.scan, len(part)):
            why = looked.reason or "it gave a scan that cannot be"
            self._decide(watch.rule, "block", looked.seconds, reason=f"{FAILED}: {why}")
            return
        found = [_moved(one, low) for one in looked.scan.findings]
        watch.certain = low + looked.scan.certain
        watch.findings += found
        self.replacement = next((one.replacement for one in found if one.replacement is not None), self.replacement)
        if found:
            self._decide(watch.rule, watch.rule.action, looked.seconds, found=found)

    def _decide(
        self, rule: Rule, action: Action, seconds: float, *, found: Sequence[Finding] = (), reason: str = ""
    ) -> None:
        # The words of a rule say what was found; a rule that failed found nothing.
        message = (rule.message if found and rule.message else self._message) if action == "block" else ""
        made = self._log(Decision(
            rule=rule.name, action=action, stage=self._stage, category=found[0].category if found else "",
            evidence=places(found) if found else "", reason=reason, added_s=seconds, message=message))
        self.decisions.append(made)
        if made.action == "block":
            self.blocked, self.message = True, made.message or message or self._message

    def _until_block(self) -> int:
        """The end of what may leave although something behind it is blocked; nothing, when a guard failed."""
        blocking = [one.start for watch in self._watches if watch.rule.action == "block" for one in watch.findings]
        if not blocking:
            return self._left
        return max(self._left, min([*blocking, *(watch.certain for watch in self._watches)]))

    def _release(self, certain: int) -> str:
        """The text up to `certain` with its redactions; a redaction that reaches further waits for its end."""
        if not any(watch.findings for watch in self._watches):
            out, self._left = self._between(self._left, max(certain, self._left)), max(certain, self._left)
            self._trim()
            return out
        parts = []
        for start, end, words in self._redactions():
            if start >= certain:
                break
            if end > certain:
                certain = start
                break
            parts += [self._between(self._left, start), words]
            self._left = end
        certain = max(certain, self._left)
        parts.append(self._between(self._left, certain))
        self._left = certain
        self._trim()
        return "".join(parts)

    def _redactions(self) -> list[tuple[int, int, str]]:
        """Where text is replaced, and by what; findings that overlap are one, named after the first rule among them."""
        spans = sorted((one.start, one.end, order, f"[{one.category.replace('_', ' ')}]")
                       for order, watch in enumerate(self._watches) if watch.rule.action == "redact" for one in watch.findings)
        merged: list[tuple[int, int, int, str]] = []
        for start, end, order, words in spans:
            if merged and start < merged[-1][1]:
                first = merged[-1]
                first_order, first_words = min((first[2], first[3]), (order, words))
                merged[-1] = (first[0], max(first[1], end), first_order, first_words)
            else:
                merged.append((start, end, order, words))
        return [(start, end, words) for start, end, _, words in merged]

    def _between(self, start: int, end: int) -> str:
        return self._text[start - self._base : end - self._base]

    def _trim(self) -> None:
        """Forget what has left and no rule will look at again."""
        for watch in self._watches:
            if watch.findings:
                watch.findings = [one for one in watch.findings if one.end > self._left]
        keep = min([self._left, *(watch.certain for watch in self._watches)]) - CONTEXT
        if keep > self._base:
            self._text, self._base = self._text[keep - self._base :], keep


def _moved(finding: Finding, by: int) -> Finding:
    import dataclasses

    return dataclasses.replace(finding, start=finding.start + by, end=finding.end + by)


def _sound(scan: Scan, end: int) -> bool:
    """Whether a scan keeps what the guard promises: a place within the text, findings that are spans of it, in order."""
    if not isinstance(scan.certain, int) or not 0 <= scan.certain <= end:
        return False
    last = 0
    for one in scan.findings:
        if not isinstance(one, Finding) or not last <= one.start <= one.end <= end:
            return False
        last = one.end
    return True
