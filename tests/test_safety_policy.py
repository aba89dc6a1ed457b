"""Policies: what ships is whole, and every mistake in a file is one sentence with its line and a remedy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lab import safety
from lab.errors import LabError
from lab.safety import guards, policy

HEAD = "policy: mine\nversion: 1\n"
RULE = "  - {name: a, guard: personal, on: [input], action: redact}\n"


@pytest.mark.parametrize("name", policy.names())
def test_every_policy_that_ships_makes_a_chain_and_knows_its_version(name: str) -> None:
    loaded = safety.load(name)
    assert loaded.name == name
    assert loaded.version >= 1
    assert loaded.sha256 == hashlib.sha256((policy.FOLDER / f"{name}.yaml").read_bytes()).hexdigest()
    assert not safety.Chain(loaded).input("Which river flows through Vienna?").blocked


@pytest.mark.parametrize(("text", "line", "says"), [
    ("", 1, "a policy must be a mapping"), (HEAD + "rules: [5]", 3, "entry 1 of 'rules' must be a mapping"),
    (HEAD + "rules: []\ntools:\n  rm: 5", 5, "'rm' must be a mapping"),
    ("policy: mine\nversion: 1\n", 1, "'rules' is missing"),
    ("policy: mine\nversion: one\nrules: []", 2, "must be a whole number"),
    ("policy: mine\nversion: true\nrules: []", 2, "must be a whole number"),
    ("policy: mine\nversion: 0\nrules: []", 2, "count from 1"),
    (HEAD + "rule: []\nrules: []", 3, "no key 'rule'"),
    (HEAD + "rules: []\nrules: []", 4, "twice"),
    (HEAD + "rules: [", 3, "no YAML"),
    (HEAD + "rules:\n" + RULE.replace("personal", "persona"), 4, "no guard 'persona'; the guards are content"),
    (HEAD + "rules:\n" + RULE.replace("redact", "hide"), 4, "no action 'hide'; the actions are allow, block"),
    (HEAD + "rules:\n" + RULE.replace("[input]", "[inputs]"), 4, "no stage 'inputs'"),
    (HEAD + "rules:\n" + RULE.replace("[input]", "[]"), 4, "looks nowhere"),
    (HEAD + "rules:\n" + RULE.replace("name: a, ", ""), 4, "'name' is missing"),
    (HEAD + "rules:\n" + RULE + RULE, 5, "a rule 'a' already"),
    (HEAD + "rules:\n" + RULE.replace("redact", "redact, roles: [boss]"), 4, "no role 'boss'"),
    (HEAD + "rules:\n" + RULE.replace("redact", "redact, settings: {kind: [x]}"), 4, "no setting 'kind'; it has kinds"),
    (HEAD + "rules:\n" + RULE.replace("redact", "confirm"), 4, "only a tool call can wait"),
    (HEAD + "rules:\n" + RULE.replace("redact", "answer_under_policy"), 4, "needs an `instruction`"),
    (HEAD + "rules:\n" + RULE.replace("redact", "rewrite"), 4, "go together"),
    (HEAD + "rules:\n" + RULE.replace("redact", "redact, timeout_s: 0"), 4, "above 0"),
    (HEAD + "rules: []\ntools:\n  rm: {roles: [user], schema: {type: 7}}", 5, "no JSON Schema"),
    (HEAD + "rules: []\ntools:\n  rm: {}", 5, "'roles' is missing"),
    (HEAD + "rules: []\ntools:\n  rm: {roles: [user], calls_per_session: -1}", 5, "give 0 or more"),
])
def test_a_broken_policy_is_one_sentence_with_line_and_remedy(text: str, line: int, says: str) -> None:
    with pytest.raises(LabError) as refused:
        safety.parse(text, "mine.yaml")
    said = str(refused.value)
    assert said.startswith(f"mine.yaml, line {line}: "), said
    assert says in said
    assert said.endswith(".")
    assert "\n" not in said


def test_a_number_that_yaml_takes_for_text_is_a_number_and_a_text_stays_one() -> None:
    made = safety.parse(HEAD.replace("version: 1", "version: 1e0") + "rules:\n  - {name: 1e3, guard: personal, on: [input], "
                        "action: redact, timeout_s: 5e-1}")
    assert made.version == 1 and made.rules[0].timeout_s == 0.5 and made.rules[0].name == "1e3"
    assert guards.make("topics", {"threshold": "5e-1"})
    with pytest.raises(LabError, match="whole number"):
        safety.parse(HEAD.replace("version: 1", "version: 1e-1") + "rules: []")


@pytest.mark.parametrize(("settings", "says"), [
    ("guard: personal, settings: {kinds: [shoe size]}", "no personal data of kind 'shoe size'"),
    ("guard: topics, settings: {topics: [tennis]}", "no topic 'tennis'"),
    ("guard: moderation, settings: {threshold: 2}", "threshold above 0 and up to 1"),
    ("guard: content, settings: {words: ['(']}", "no list entry"),
    ("guard: judge", "asks the engine 'second'"),
])
def test_a_setting_that_makes_no_sense_is_refused_when_the_chain_is_made(settings: str, says: str) -> None:
    made = safety.parse(f"{HEAD}rules:\n  - {{name: a, on: [input], action: block, {settings}}}")
    with pytest.raises(LabError, match=says) as refused:
        safety.Chain(made)
    assert str(refused.value).endswith(".")


def test_a_policy_file_of_ones_own_is_read_and_a_missing_one_names_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(HEAD + "rules:\n" + RULE)
    assert safety.load(file).rules[0].guard == "personal"
    with pytest.raises(LabError, match="the policies are classifier, default, strict"):
        safety.load("no-such")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(LabError, match="UTF-8"):
        safety.load(file)


def test_an_ablation_names_rules_that_exist() -> None:
    assert [rule.name for rule in safety.load().only("secrets", "injection").rules] == ["injection", "secrets"]
    with pytest.raises(LabError, match="no rule 'nothing'"):
        safety.load().only("nothing")


def test_unknown_guards_and_roles_are_named() -> None:
    with pytest.raises(LabError, match="There is no guard 'x'; the guards are"):
        guards.make("x", {})
    with pytest.raises(LabError, match="no role 'stranger'; its roles are user, operator"):
        safety.Chain(safety.load()).input("Hi", role="stranger")


@pytest.mark.parametrize("limit", [".inf", "1.0e+12", "0", "-1"])
def test_a_time_limit_that_nobody_can_wait_for_is_refused(limit: str) -> None:
    text = ("policy: mine\nversion: 1\nrules:\n"
            f"  - {{name: a, guard: content, on: [input], action: block, timeout_s: {limit}}}\n")
    with pytest.raises(LabError, match="time limit"):
        safety.parse(text)


@pytest.mark.parametrize("shows", ["Do {x", "}"])
def test_words_of_a_confirmation_with_odd_braces_are_refused(shows: str) -> None:
    text = f"policy: mine\nversion: 1\nrules: []\nroles: [user]\ntools:\n  t: {{roles: [user], confirm: true, shows: '{shows}'}}\n"
    with pytest.raises(LabError, match="braces"):
        safety.parse(text)


def test_a_rule_about_no_topic_is_refused() -> None:
    with pytest.raises(LabError, match="No topic"):
        guards.make("topics", {"topics": []})
