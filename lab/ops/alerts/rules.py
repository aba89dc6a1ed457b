"""The alert rules: a versioned YAML file, checked before anything is watched; every error names its line and the remedy."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.ops.alerts.conditions import Burn, Condition, Detector, Drift, Spike, Threshold
from lab.ops.requests_schema import NUMBERS, SCORE, TEXTS
from lab.ops.slo import DAY_S, Slo
from lab.safety import lines
from lab.safety.lines import Checked

SHIPPED = Path(__file__).parent / "default.yaml"
SEVERITIES = ("notice", "warning", "critical")
ACTIONS = ("page", "log", "webhook")
DETECTORS: tuple[Detector, ...] = ("level", "adwin", "page_hinkley")
TAKES = ("mean", "share", "sum", "count", "p50", "p90", "p95", "p99")
CLEAR_AFTER_S = 600.0
FEWEST = 50


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One condition, and what happens when it holds. `unless` names rules whose alerts make this one needless."""

    name: str
    condition: Condition
    severity: str
    actions: tuple[str, ...]
    unless: tuple[str, ...] = ()
    clear_after_s: float = CLEAR_AFTER_S
    """The alert ends when the condition has not held for so long; until then it is one and the same alert."""
    fewest: int = FEWEST
    """Requests in its window below which the rule says nothing."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """All rules, and which version of which file they are."""

    name: str
    version: int
    rules: tuple[Rule, ...]
    objectives: tuple[Slo, ...] = ()
    webhook_env: str = ""
    """The environment variable with the webhook's URL, which is a secret and stands in no file."""
    sha256: str = ""

    @property
    def needs_s(self) -> float:
        """How far back the log must reach for all rules and budgets, in seconds."""
        return max((*(rule.condition.needs_s for rule in self.rules), *(slo.period_days * DAY_S for slo in self.objectives)),
                   default=0.0)


def load(path: str | Path = SHIPPED) -> Rules:
    """A file of rules, the shipped one unless a path is given. Raises `LabError` naming file, line and remedy."""
    file = Path(path).expanduser()
    text, sha256 = lines.file(file, f"alert rules '{file.name}'")
    return parse(text, file.name, sha256)


def in_force() -> Rules:
    """The file that the environment variable `LAB_ALERT_RULES` names, else the shipped one."""
    return load(os.environ.get("LAB_ALERT_RULES") or SHIPPED)


_TOP = {"alerts": str, "version": int, "description": str, "webhook_env": str, "objectives": dict, "rules": list}
_SLO = {"objective": float, "period_days": float, "measure": str, "at_most": float}
_CONDITIONS: dict[str, dict[str, type]] = {
    "burn": {"objective": str, "rate": float, "long_s": float, "short_s": float},
    "threshold": {"measure": str, "take": str, "above": float, "below": float, "window_s": float},
    "spike": {"measure": str, "take": str, "times": float, "window_s": float, "reference_s": float},
    "drift": {"measure": str, "direction": str, "window_s": float, "reference_s": float, "false_alarms": float,
              "requests": float, "detector": str},
}
_RULE = {"name": str, "severity": str, "actions": list, "unless": list, "clear_after_s": float, "fewest": int,
         **dict.fromkeys(_CONDITIONS, dict)}


def parse(text: str, file: str = "alerts", sha256: str = "") -> Rules:
    """Rules from YAML text."""
    values, where = lines.read(text, file, "a file of alert rules")
    reading = _Reading(Checked(file, where, "a file of alert rules"))
    top = reading.seen.mapping(values, (), _TOP, needed=("alerts", "version", "rules"))
    if top["version"] < 1:
        raise reading.seen.error(("version",), f"the version is {top['version']}; count from 1")
    objectives = {str(name): reading.slo(str(name), one) for name, one in top.get("objectives", {}).items()}
    rules = tuple(reading.rule(one, ("rules", i), objectives) for i, one in enumerate(top["rules"]))
    names = [rule.name for rule in rules]
    for i, rule in enumerate(rules):
        if rule.name in names[:i]:
            raise reading.seen.error(("rules", i), f"there is a rule '{rule.name}' already; give every rule a name of its own")
        if missing := [name for name in rule.unless if name not in names or name == rule.name]:
            raise reading.seen.error(("rules", i, "unless"), f"there is no other rule '{missing[0]}'; the rules are "
                                                             f"{', '.join(names)}")
    return Rules(name=top["alerts"], version=top["version"], rules=rules, objectives=tuple(objectives.values()),
                 webhook_env=top.get("webhook_env", "LAB_ALERT_WEBHOOK"), sha256=sha256)


class _Reading:
    """The checks of one file."""

    def __init__(self, seen: Checked) -> None:
        self.seen = seen

    def slo(self, name: str, value: Any) -> Slo:
        path: lines.Path = ("objectives", name)
        entry = self.seen.mapping(value, path, _SLO, needed=("objective",))
        if not 0 < entry["objective"] < 1:
            raise self.seen.error((*path, "objective"), f"the objective is {entry['objective']:g}; give a share between 0 and 1, "
                                                        "such as 0.999")
        if ("measure" in entry) != ("at_most" in entry):
            raise self.seen.error(path, "`measure` and `at_most` go together; give both, or neither to count failures")
        if "measure" in entry:
            self.measure(entry, path, words=False)
        period = self.positive(entry, "period_days", path, 30.0)
        return Slo(name=name, objective=float(entry["objective"]), period_days=period, measure=entry.get("measure", ""),
                   at_most=float(entry.get("at_most", math.nan)))

    def rule(self, value: Any, path: lines.Path, objectives: Mapping[str, Slo]) -> Rule:
        entry = self.seen.mapping(value, path, _RULE, needed=("name", "severity", "actions"))
        kinds = [kind for kind in _CONDITIONS if kind in entry]
        if len(kinds) != 1:
            raise self.seen.error(path, f"a rule has exactly one of {', '.join(_CONDITIONS)}, not {', '.join(kinds) or 'none'}")
        if entry["severity"] not in SEVERITIES:
            raise self.seen.error((*path, "severity"), f"there is no severity '{entry['severity']}'; choose from "
                                                       f"{', '.join(SEVERITIES)}")
        actions = self.seen.texts(entry["actions"], (*path, "actions"), ACTIONS, "action")
        if not actions:
            raise self.seen.error((*path, "actions"), f"nothing would happen; name at least one of {', '.join(ACTIONS)}")
        if entry.get("fewest", FEWEST) < 1:
            raise self.seen.error((*path, "fewest"), "a rule needs at least 1 request")
        return Rule(name=entry["name"], condition=self.condition(kinds[0], entry[kinds[0]], (*path, kinds[0]), objectives),
                    severity=entry["severity"], actions=actions,
                    unless=self.seen.texts(entry.get("unless", []), (*path, "unless")), fewest=entry.get("fewest", FEWEST),
                    clear_after_s=self.positive(entry, "clear_after_s", path, CLEAR_AFTER_S))

    def condition(self, kind: str, value: Any, path: lines.Path, objectives: Mapping[str, Slo]) -> Condition:
        known = _CONDITIONS[kind]
        optional = {"above", "below", "direction", "false_alarms", "requests", "detector"}
        entry = self.seen.mapping(value, path, known, needed=tuple(key for key in known if key not in optional))
        if kind == "burn":
            return self.burn(entry, path, objectives)
        self.measure(entry, path, words=kind == "drift")
        window = self.positive(entry, "window_s", path)
        if kind == "threshold":
            return self.threshold(entry, path, window)
        reference = self.positive(entry, "reference_s", path)
        if kind == "spike":
            if not entry["take"].startswith("p") or entry["take"] not in TAKES:
                raise self.seen.error((*path, "take"), "a spike is of a percentile: p50, p90, p95 or p99")
            if not entry["times"] > 1:
                raise self.seen.error((*path, "times"), f"a spike of {entry['times']:g} times is none; give more than 1")
            return Spike(measure=entry["measure"], take=entry["take"], times=entry["times"], window_s=window,
                         reference_s=reference)
        if entry.get("direction", "both") not in ("down", "up", "both"):
            raise self.seen.error((*path, "direction"), f"the direction is down, up or both, not '{entry['direction']}'")
        if not 0 < entry.get("false_alarms", 0.01) < 1:
            raise self.seen.error((*path, "false_alarms"), "false alarms are a share between 0 and 1 of all periods")
        if (detector := entry.get("detector", "level")) not in DETECTORS:
            raise self.seen.error((*path, "detector"), f"there is no detector '{detector}'; choose from {', '.join(DETECTORS)}")
        if detector != "level" and (given := [key for key in ("false_alarms", "requests") if key in entry]):
            raise self.seen.error((*path, given[0]), f"'{detector}' keeps no promise about false alarms; leave "
                                                     f"'{given[0]}' out, or take the detector level")
        if detector != "level" and entry["measure"] in TEXTS:
            raise self.seen.error((*path, "detector"), f"'{detector}' follows a mean and '{entry['measure']}' is words; take the "
                                                       "detector level")
        return Drift(detector=detector, measure=entry["measure"], direction=entry.get("direction", "both"), window_s=window,
                     reference_s=reference, false_alarms=float(entry.get("false_alarms", 0.01)),
                     requests=self.positive(entry, "requests", path, 10_000.0))

    def burn(self, entry: Mapping[str, Any], path: lines.Path, objectives: Mapping[str, Slo]) -> Burn:
        if entry["objective"] not in objectives:
            raise self.seen.error((*path, "objective"), f"there is no objective '{entry['objective']}'; the objectives are "
                                                        f"{', '.join(objectives) or 'none, add one under objectives'}")
        slo, rate = objectives[entry["objective"]], self.positive(entry, "rate", path)
        long, short = (self.positive(entry, key, path) for key in ("long_s", "short_s"))
        if not short < long:
            raise self.seen.error((*path, "short_s"), "the short window must be shorter than the long one")
        if rate * slo.budget_share > 1:
            raise self.seen.error((*path, "rate"), f"with an objective of {slo.objective:g} the budget burns "
                                                   f"{1 / slo.budget_share:.3g} times too fast at most, when every request is "
                                                   "bad; give less")
        return Burn(slo=slo, rate=rate, long_s=long, short_s=short)

    def threshold(self, entry: Mapping[str, Any], path: lines.Path, window: float) -> Threshold:
        if entry["take"] not in TAKES:
            raise self.seen.error((*path, "take"), f"there is no '{entry['take']}'; choose from {', '.join(TAKES)}")
        if ("above" in entry) == ("below" in entry):
            raise self.seen.error(path, "a threshold has exactly one of above and below")
        return Threshold(measure=entry["measure"], take=entry["take"], above="above" in entry, window_s=window,
                         limit=float(entry.get("above", entry.get("below"))))

    def measure(self, entry: Mapping[str, Any], path: lines.Path, *, words: bool) -> None:
        """Refuse a column that the log does not have, or whose kind does not fit."""
        numbers = (name for name in NUMBERS if name not in ("time_s", "status"))
        known = ("failed", *numbers, *(("language", "topic") if words else ()))
        if entry["measure"] not in known and not entry["measure"].startswith(SCORE):
            more = " (words only drift)" if entry["measure"] in TEXTS else ""
            raise self.seen.error((*path, "measure"), f"there is no measure '{entry['measure']}' here{more}; choose {SCORE}NAME "
                                                      f"or from {', '.join(known)}")

    def positive(self, entry: Mapping[str, Any], key: str, path: lines.Path, default: float = math.nan) -> float:
        value = float(entry.get(key, default))
        if not 0 < value < math.inf:
            raise self.seen.error((*path, key), f"'{key}' is {value:g}; give a number above 0")
        return value
