"""The chain: it fails closed and says so, logs without quoting, asks a person, and keeps what a second model replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import safety
from lab.engines.scripted import Scripted
from lab.errors import LabError
from lab.safety.guards import topics
from lab.safety.shipped import examples

Reply = str | Callable[[str], str]


def policy(rules: str, more: str = "") -> safety.Policy:
    return safety.parse(f"policy: test\nversion: 3\nroles: [user, operator]\nrules:\n{rules}{more}", sha256="abc")


def second(reply: Reply, **more: float) -> dict[str, Scripted]:
    return {"second": Scripted(reply=reply, **more)}  # type: ignore[arg-type]


JUDGE = "  - {name: judge, guard: judge, on: [input, output], action: block, message: Not today.}\n"
REWRITE = "  - {name: rewrite, guard: rewrite, on: [output], action: rewrite, timeout_s: 0.4}\n"
PERSONAL = "  - {name: personal, guard: personal, on: [input, output, tool], action: redact}\n"


class Breaks:
    def scan(self, text: str, start: int, ended: bool) -> safety.Scan:
        raise ValueError(f"cannot read {text}")


class Sleeps:
    def scan(self, text: str, start: int, ended: bool) -> safety.Scan:
        time.sleep(5)
        return safety.Scan(certain=len(text))


@pytest.mark.parametrize(("guard", "why"), [(Breaks(), "it raised ValueError"), (Sleeps(), "no answer within 0.05 s")])
def test_a_guard_that_breaks_or_sleeps_blocks_and_says_so(guard: safety.Guard, why: str) -> None:
    log: list[safety.Record] = []
    chain = safety.Chain(policy(PERSONAL.replace("redact", "redact, timeout_s: 0.05")), made={"personal": guard}, sink=log.append)
    stream = chain.stream(["my words ", "are here"])
    for text in (chain.input("my words").text, "".join(stream), chain.output("my words").text):
        assert text == chain.policy.message
    assert not chain.tool(safety.ToolCall(name="none")).allowed
    assert {record.action for record in log} == {"block"}
    assert log[0].reason == f"guard failed: {why}"
    assert "words" not in repr(log)


def test_a_guard_that_breaks_midway_stops_the_stream_where_it_was_certain() -> None:
    class Later:
        def scan(self, text: str, start: int, ended: bool) -> safety.Scan:
            if "boom" in text:
                raise RuntimeError
            return safety.Scan(certain=len(text))

    stream = safety.Chain(policy(PERSONAL), made={"personal": Later()}).stream(["fine ", "boom ", "never"])
    assert list(stream) == ["fine ", f"\n\n{stream.message}"]


def test_a_log_that_cannot_be_written_blocks() -> None:
    def full(record: safety.Record) -> None:
        raise OSError("disk full")

    chain = safety.Chain(policy(PERSONAL), sink=full)
    assert chain.input("Hello").blocked
    assert "the log raised OSError" in chain.input("Hello").decisions[-1].reason
    assert chain.output("Mail a@b.example.org").blocked
    assert "a@b" not in "".join(chain.stream(["Mail a@b.example.org"]))


@given(st.sampled_from(["jane@mail.example.org", "4111 1111 1111 1111", "+49 30 1234567"]))
def test_a_record_says_rule_place_cost_and_policy_and_quotes_nothing(secret: str) -> None:
    log: list[safety.Record] = []
    chain = safety.Chain(policy(PERSONAL), sink=log.append, clock=lambda: 7.0)
    checked = chain.input(f"It is {secret}.", role="operator", session="s1")
    assert secret not in checked.text
    assert checked.original == f"It is {secret}."
    (record,) = log
    assert (record.rule, record.action, record.role, record.session, record.at_s) == ("personal", "redact", "operator", "s1", 7.0)
    assert (record.policy, record.policy_version, record.policy_sha256) == ("test", 3, "abc")
    assert f"at 6–{6 + len(secret)}" in record.evidence
    assert record.added_s > 0
    assert secret not in repr(record)


def test_what_nothing_was_found_in_is_logged_as_allowed() -> None:
    log: list[safety.Record] = []
    chain = safety.Chain(policy(PERSONAL), sink=log.append)
    chain.input("Hello")
    list(chain.stream(["Hel", "lo"]))
    assert [(record.stage, record.action) for record in log] == [("input", "allow"), ("output", "allow")]


def test_rules_apply_to_their_roles_only() -> None:
    chain = safety.Chain(policy(PERSONAL.replace("redact", "redact, roles: [user]")))
    assert "[email]" in chain.output("a@b.example.org").text
    assert chain.output("a@b.example.org", role="operator").text == "a@b.example.org"


# A second model


def test_a_judge_blocks_with_the_words_of_its_rule() -> None:
    chain = safety.Chain(policy(JUDGE), engines=second(lambda prompt: "Yes." if "bad" in prompt.split("<<<")[1] else "no"))
    assert chain.input("a bad thing").text == "Not today."
    assert chain.input("a good thing").text == "a good thing"


@pytest.mark.parametrize("reply", ["perhaps", ""])
def test_a_judge_who_says_neither_yes_nor_no_fails_closed(reply: str) -> None:
    checked = safety.Chain(policy(JUDGE), engines=second(reply)).input("hello")
    assert checked.blocked
    assert checked.decisions[0].reason.startswith("guard failed: The ")


def test_a_judge_who_is_late_fails_closed() -> None:
    late = policy(JUDGE.replace("action", "timeout_s: 0.1, action"))
    checked = safety.Chain(late, engines=second("no", ttft_s=3.0, real_time=True)).input("hello")
    assert checked.blocked
    assert checked.decisions[0].reason == "guard failed: no answer within 0.1 s"


def test_a_rewritten_answer_replaces_the_original_which_an_operator_can_read() -> None:
    chain = safety.Chain(policy(REWRITE), engines=second("It may rain."))
    stream = chain.stream(["It will ", "rain, I promise."])
    assert list(stream) == ["It may rain."]
    assert stream.original == "It will rain, I promise."
    assert [(d.rule, d.action) for d in stream.decisions] == [("rewrite", "rewrite")]
    assert chain.output("I promise.").original == "I promise."


def test_an_answer_that_the_second_model_keeps_is_shown_as_it_was() -> None:
    assert safety.Chain(policy(REWRITE), engines=second("OK")).output("It may rain.").text == "It may rain."


def test_a_rewritten_answer_passes_the_other_rules_again() -> None:
    chain = safety.Chain(policy(PERSONAL + REWRITE), engines=second("Write to a@b.example.org."))
    assert chain.output("Write to me.").text == "Write to [email]."


def test_the_second_model_is_shown_no_personal_data() -> None:
    seen: list[str] = []
    chain = safety.Chain(policy(PERSONAL + REWRITE), engines=second(lambda prompt: seen.append(prompt) or "OK"))  # type: ignore[func-returns-value]
    assert chain.output("Write to a@b.example.org.").text == "Write to [email]."
    assert "a@b" not in seen[0]


def test_a_rewrite_that_is_late_shows_nothing_of_the_answer() -> None:
    chain = safety.Chain(policy(REWRITE), engines=second("OK", ttft_s=3.0, real_time=True))
    assert "".join(chain.stream(["It will rain."])) == chain.policy.message


# Topics


def test_a_sensitive_question_is_answered_under_an_instruction_and_with_a_disclaimer() -> None:
    checked = safety.Chain(safety.load()).input("Which dose of ibuprofen helps against a headache?")
    assert not checked.blocked
    assert "doctor" in checked.instructions[0]
    assert "no medical advice" in checked.disclaimers[0]


def test_the_topics_are_learnt_from_other_examples_than_they_are_measured_on() -> None:
    held, seen = ({e.text for e in examples() if e.held_out is side} for side in (True, False))
    assert not held & seen
    right, n = topics.accuracy()
    assert n == len(held)
    assert right / n > 0.85


# Tools

TOOLS = """
tools:
  add: {roles: [user], calls_per_session: 2, schema: {properties: {n: {type: integer}}, required: [n], additionalProperties: false}}
  mail: {roles: [user, operator], confirm: true, timeout_s: 0.2, shows: "Send to {to}"}
"""


def tools(sink: Callable[[safety.Record], None] | None = None) -> safety.Chain:
    return safety.Chain(policy(PERSONAL, TOOLS), sink=sink)


@pytest.mark.parametrize(("call", "role", "rule"), [
    (safety.ToolCall(name="rm", arguments={"path": "/"}), "user", "tool access"),
    (safety.ToolCall(name="add", arguments={"n": 1}), "operator", "tool access"),
    (safety.ToolCall(name="add", arguments={"n": "one"}), "user", "tool arguments"),
    (safety.ToolCall(name="add", arguments={"n": 1, "m": 2}), "user", "tool arguments"),
    (safety.ToolCall(name="add"), "user", "tool arguments")])
def test_a_call_off_the_list_or_with_wrong_arguments_is_blocked(call: safety.ToolCall, role: str, rule: str) -> None:
    ruling = tools().tool(call, role=role)
    assert not ruling.allowed
    assert [(d.rule, d.action) for d in ruling.decisions] == [(rule, "block")]
    assert ruling.reason
    assert "one" not in ruling.reason.split()


def test_a_budget_is_a_session_s_own_and_refused_calls_do_not_count() -> None:
    chain = tools()
    one = safety.ToolCall(name="add", arguments={"n": 1})
    chain.tool(safety.ToolCall(name="add"), session="a")
    assert [chain.tool(one, session="a").allowed for _ in range(3)] == [True, True, False]
    assert chain.tool(one, session="b").allowed
    assert chain.tool(one, session="a").decisions[0].rule == "tool budget"


def test_two_threads_cannot_share_the_last_call() -> None:
    chain, allowed = tools(), list[bool]()
    one = safety.ToolCall(name="add", arguments={"n": 1})
    threads = [threading.Thread(target=lambda: allowed.append(chain.tool(one).allowed)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 2


def test_a_risky_call_shows_what_will_happen_and_waits_for_a_yes() -> None:
    shown: list[str] = []

    def ask(pending: safety.Pending) -> None:
        shown.append(pending.shows)
        threading.Timer(0.02, lambda: pending.answer(True, by="Jo")).start()

    ruling = tools().tool(safety.ToolCall(name="mail", arguments={"to": "a@b.example.org"}), ask=ask)
    assert ruling.allowed
    assert shown == ["Send to [email]"]
    assert ruling.call.arguments == {"to": "[email]"}


@pytest.mark.parametrize(("answer", "why"), [(None, "nobody answered within 0.2 s"), (False, "Jo said no")])
def test_silence_and_no_are_both_a_no(answer: bool | None, why: str) -> None:
    pendings: list[safety.Pending] = []

    def ask(pending: safety.Pending) -> None:
        pendings.append(pending)
        if answer is not None:
            pending.answer(answer, by="Jo")

    ruling = tools().tool(safety.ToolCall(name="mail", arguments={"to": "Bo"}), ask=ask)
    assert not ruling.allowed
    assert ruling.reason == why
    assert not pendings[0].answer(True), "a late yes does not count"
    assert pendings[0].wait()[0] is False


def test_without_anybody_to_ask_a_risky_call_is_not_made() -> None:
    ruling = tools().tool(safety.ToolCall(name="mail", arguments={"to": "Bo"}))
    assert not ruling.allowed
    assert "nobody is there to ask" in ruling.reason


def test_asking_that_breaks_is_a_no() -> None:
    def ask(pending: safety.Pending) -> None:
        raise RuntimeError

    assert "guard failed" in tools().tool(safety.ToolCall(name="mail", arguments={"to": "Bo"}), ask=ask).reason


def test_texts_deep_in_the_arguments_are_redacted_too() -> None:
    chain = safety.Chain(policy(PERSONAL, "tools:\n  note: {roles: [user]}\n"))
    ruling = chain.tool(safety.ToolCall(name="note", arguments={"a": [{"b": "a@b.example.org"}, 3], "c": None}))
    assert ruling.call.arguments == {"a": [{"b": "[email]"}, 3], "c": None}


@pytest.mark.parametrize("arguments", [{"a@b.example.org": 1}, {"card": 4111111111111111}])
def test_what_cannot_be_redacted_in_the_arguments_blocks(arguments: dict[str, object]) -> None:
    chain = safety.Chain(policy(PERSONAL, "tools:\n  note: {roles: [user]}\n"))
    ruling = chain.tool(safety.ToolCall(name="note", arguments=arguments))
    assert not ruling.allowed
    assert "cannot be replaced" in ruling.reason


def test_a_call_whose_arguments_are_blocked_leaves_the_budget_as_it_was() -> None:
    chain = safety.Chain(policy(PERSONAL, "tools:\n  note: {roles: [user], calls_per_session: 1}\n"))
    assert not chain.tool(safety.ToolCall(name="note", arguments={"n": 4111111111111111})).allowed
    assert chain.tool(safety.ToolCall(name="note", arguments={"n": 4})).allowed
    assert not chain.tool(safety.ToolCall(name="note", arguments={"n": 4})).allowed


def test_an_answer_that_must_be_rewritten_cannot_be_pushed() -> None:
    with pytest.raises(LabError, match="use `stream`"):
        safety.Chain(policy(REWRITE), engines=second("OK")).flow()


class _Wrong:
    """A guard of somebody's own that answers yes where a scan is wanted."""

    def scan(self, text: str, start: int, ended: bool) -> bool:
        return True


def test_a_guard_that_gives_something_else_than_a_scan_blocks_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.safety import limits

    looked = limits.look(lambda: _Wrong().scan("x", 0, True), None)  # type: ignore[arg-type,return-value]
    assert looked.scan is None and "bool in place of a scan" in looked.reason


@pytest.mark.parametrize("scan", [
    safety.Scan(certain=10**6), safety.Scan(certain=None), safety.Scan(certain=3, findings=(None,)),  # type: ignore[arg-type]
    safety.Scan(certain=3, findings=(safety.Finding(start=3, end=1, category="x"),))])
def test_a_scan_that_cannot_be_blocks_and_says_so(scan: safety.Scan) -> None:
    from lab.safety.flow import Flow

    class Odd:
        def scan(self, text: str, start: int, ended: bool) -> safety.Scan:
            return scan

    rule = safety.parse("policy: p\nversion: 1\nrules:\n  - {name: odd, guard: content, on: [output], action: block}\n").rules[0]
    flow = Flow([(rule, Odd())], stage="output", message="no", log=lambda made: made)
    assert flow.push("some text") + flow.end() in ("", "no") and flow.blocked
    assert "guard failed" in flow.decisions[-1].reason
