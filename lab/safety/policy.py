"""A policy: a versioned YAML file that says which guard looks where, and what happens when it finds something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from lab.errors import LabError
from lab.safety import guards, lines
from lab.safety.decisions import ACTIONS, STAGES, Action, Stage

FOLDER = Path(__file__).parent / "policies"
DEFAULT = "default"
MESSAGE = "This cannot be shown: it goes against the rules of this service."
TIMEOUT_S = 30.0
MOST_TIMEOUT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One guard at its post: where it looks (`on`), for whom (`roles`, empty is everybody), and what then happens."""

    name: str
    guard: str
    on: tuple[Stage, ...]
    action: Action
    roles: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    """What the user sees in place of a blocked text; the policy's own message when it is empty."""
    instruction: str = ""
    """The system instruction under which the model may answer."""
    disclaimer: str = ""
    """A sentence that is put behind the answer."""
    timeout_s: float | None = None
    """A look that takes longer fails, and so blocks; None waits, which is right for patterns only."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that may be called: by which roles, with which arguments, how often, and whether a person is asked first."""

    name: str
    roles: tuple[str, ...]
    schema: Mapping[str, Any] = field(default_factory=dict)
    calls_per_session: int | None = None
    confirm: bool = False
    shows: str = ""
    """What the person reads, with arguments in braces: "Send an e-mail to {to}"."""
    timeout_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The rules in their order, the tools, and which version of which text they are."""

    name: str
    version: int
    rules: tuple[Rule, ...]
    roles: tuple[str, ...] = ("user",)
    tools: tuple[Tool, ...] = ()
    description: str = ""
    message: str = MESSAGE
    sha256: str = ""
    """Of the file's bytes; "" for a policy made in a program."""

    def tool(self, name: str) -> Tool | None:
        return next((tool for tool in self.tools if tool.name == name), None)

    def only(self, *names: str) -> Policy:
        """This policy with these rules alone, for an ablation. Raises `LabError` for a rule it does not have."""
        import dataclasses

        if unknown := [name for name in names if name not in {rule.name for rule in self.rules}]:
            raise LabError(f"Policy '{self.name}' has no rule '{unknown[0]}'; its rules are "
                           f"{', '.join(rule.name for rule in self.rules)}.")
        return dataclasses.replace(self, rules=tuple(rule for rule in self.rules if rule.name in names))


def names() -> list[str]:
    """The policies that ship."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name_or_path: str | Path = DEFAULT) -> Policy:
    """A policy that ships, or a YAML file of your own. Raises `LabError` naming file, line and remedy."""
    path = FOLDER / f"{name_or_path}.yaml" if str(name_or_path) in names() else Path(name_or_path).expanduser()
    text, sha256 = lines.file(path, f"policy '{path.name}'", missing=(
        f"There is no policy '{name_or_path}' and no such file; the policies are {', '.join(names())}, or give "
        "the path of a YAML file."))
    return parse(text, path.name, sha256)


_POLICY = {"policy": str, "version": int, "description": str, "message": str, "roles": list, "rules": list, "tools": dict}
_RULE = {"name": str, "guard": str, "on": list, "action": str, "roles": list, "settings": dict, "message": str,
         "instruction": str, "disclaimer": str, "timeout_s": float}
_TOOL = {"roles": list, "schema": dict, "calls_per_session": int, "confirm": bool, "shows": str, "timeout_s": float}


def parse(text: str, file: str = "policy", sha256: str = "") -> Policy:
    """A policy from YAML text."""
    values, where = lines.read(text, file, "a policy")
    checked = _Reading(file, where, "a policy")
    top = checked.mapping(values, (), _POLICY, needed=("policy", "version", "rules"))
    if top["version"] < 1:
        raise checked.error(("version",), f"the version is {top['version']}; count from 1")
    roles = checked.texts(top.get("roles", ["user"]), ("roles",))
    if not roles:
        raise checked.error(("roles",), "there is no role; name at least one, such as user")
    rules = tuple(checked.rule(entry, ("rules", i), roles) for i, entry in enumerate(top["rules"]))
    seen: set[str] = set()
    for i, rule in enumerate(rules):
        if rule.name in seen:
            raise checked.error(("rules", i), f"there is a rule '{rule.name}' already; give every rule a name of its own")
        seen.add(rule.name)
    tools = tuple(checked.tool(name, entry, ("tools", name), roles) for name, entry in top.get("tools", {}).items())
    return Policy(name=top["policy"], version=top["version"], rules=rules, roles=roles, tools=tools, sha256=sha256,
                  description=top.get("description", ""), message=top.get("message", MESSAGE))


class _Reading(lines.Checked):
    """The checks of one policy."""

    def rule(self, value: Any, path: lines.Path, roles: tuple[str, ...]) -> Rule:
        entry = self.mapping(value, path, _RULE, needed=("name", "guard", "on", "action"))
        if entry["guard"] not in guards.names():
            raise self.error((*path, "guard"), f"there is no guard '{entry['guard']}'; the guards are "
                                                f"{', '.join(guards.names())}")
        if entry["action"] not in ACTIONS:
            raise self.error((*path, "action"), f"there is no action '{entry['action']}'; the actions are {', '.join(ACTIONS)}")
        on = self.texts(entry["on"], (*path, "on"), STAGES, "stage")
        if not on:
            raise self.error((*path, "on"), f"the rule looks nowhere; name at least one of {', '.join(STAGES)}")
        known = guards.settings_of(entry["guard"])
        if unknown := [key for key in entry.get("settings", {}) if key not in known]:
            raise self.error((*path, "settings", unknown[0]), f"guard '{entry['guard']}' has no setting '{unknown[0]}'; it has "
                                                              f"{', '.join(known) or 'none'}")
        self._actions(entry, on, path)
        who = self.texts(entry.get("roles", []), (*path, "roles"), roles, "role")
        timeout = entry.get("timeout_s", TIMEOUT_S if _slow(entry["guard"]) else None)
        if timeout is not None and not 0 < timeout <= MOST_TIMEOUT_S:
            raise self.error((*path, "timeout_s"), f"the time limit is {timeout:g} s; give a number above 0, "
                                                    f"{MOST_TIMEOUT_S:g} at most")
        return Rule(name=entry["name"], guard=entry["guard"], on=on, action=entry["action"], roles=who,  # type: ignore[arg-type]
                    settings=entry.get("settings", {}), message=entry.get("message", ""), timeout_s=timeout,
                    instruction=entry.get("instruction", ""), disclaimer=entry.get("disclaimer", ""))

    def _actions(self, entry: dict[str, Any], on: tuple[str, ...], path: lines.Path) -> None:
        """Refuse actions that mean nothing where the rule looks."""
        action, at = entry["action"], (*path, "action")
        if action == "confirm" and on != ("tool",):
            raise self.error(at, "only a tool call can wait for a person; set `on: [tool]` or choose another action")
        if action == "answer_under_policy":
            if on != ("input",):
                raise self.error(at, "an instruction comes before the answer; set `on: [input]` or choose another action")
            if not (entry.get("instruction") or entry.get("disclaimer")):
                raise self.error(at, "answering under a policy needs an `instruction` or a `disclaimer`; add one")
        if (action == "rewrite") != (entry["guard"] == "rewrite"):
            raise self.error(at, "the action rewrite and the guard rewrite, which writes the other answer, go together")
        if action == "rewrite" and on != ("output",):
            raise self.error(at, "only an answer is rewritten; set `on: [output]`")

    def tool(self, name: str, value: Any, path: lines.Path, roles: tuple[str, ...]) -> Tool:
        import jsonschema

        entry = self.mapping(value, path, _TOOL, needed=("roles",))
        schema = entry.get("schema", {})
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise self.error((*path, "schema"), f"this is no JSON Schema ({error.message}); mend it") from error
        try:
            list(Formatter().parse(entry.get("shows", "")))
        except ValueError as error:
            raise self.error((*path, "shows"), f"braces that do not pair ({error}); write {{{{ for a brace") from error
        budget = entry.get("calls_per_session")
        if budget is not None and budget < 0:
            raise self.error((*path, "calls_per_session"), f"a budget of {budget} calls cannot be; give 0 or more")
        if not 0 < entry.get("timeout_s", 60.0) <= MOST_TIMEOUT_S:
            raise self.error((*path, "timeout_s"), f"the time to answer must be above 0 s, and {MOST_TIMEOUT_S:g} s at most")
        return Tool(name=name, roles=self.texts(entry["roles"], (*path, "roles"), roles, "role"), schema=schema,
                    calls_per_session=budget, confirm=entry.get("confirm", False), shows=entry.get("shows", ""),
                    timeout_s=float(entry.get("timeout_s", 60.0)))


def _slow(guard: str) -> bool:
    """Whether a guard asks a second model, which may never answer."""
    return guard in ("judge", "rewrite", "presidio")
