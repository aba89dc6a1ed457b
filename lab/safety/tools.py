"""What a tool call must pass: the allow-list of its role, the schema of its arguments, and the budget of its session."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lab.safety.decisions import ToolCall
from lab.safety.policy import Policy, Tool


def refusal(policy: Policy, call: ToolCall, role: str) -> tuple[str, str]:
    """Which check refuses the call, and why; two empty texts when none does. No argument's value is quoted."""
    tool = policy.tool(call.name)
    if tool is None:
        return "tool access", f"the tool '{call.name[:60]}' is not on the allow-list"
    if role not in tool.roles:
        return "tool access", f"the role '{role}' may not call '{tool.name}'"
    wrong = _wrong_argument(tool, call)
    return ("tool arguments", wrong) if wrong else ("", "")


def _wrong_argument(tool: Tool, call: ToolCall) -> str:
    import jsonschema

    schema = {"type": "object", **tool.schema}
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(dict(call.arguments)))
    if error is None:
        return ""
    where = ".".join(map(str, error.absolute_path)) or "the arguments"
    return f"{where} of '{tool.name}' does not fit its schema ({error.validator})"


class Budgets:
    """How often each session has called each tool. Taking a call from the budget is one step, so that no two share the last."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def take(self, tool: Tool, session: str) -> bool:
        """Whether one more call is left; then it is counted."""
        with self._lock:
            if tool.calls_per_session is not None and self._counts[session, tool.name] >= tool.calls_per_session:
                return False
            self._counts[session, tool.name] += 1
            return True

    def give_back(self, tool: Tool, session: str) -> None:
        """A call that was not made after all."""
        with self._lock:
            self._counts[session, tool.name] -= 1


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text in nested arguments with the way to it; keys and numbers have the empty way: nothing can replace them."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield (), str(value)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield (), str(key)
            yield from leaves(one, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for i, one in enumerate(value):
            yield from leaves(one, (*path, i))


def replaced(value: Any, texts: Mapping[tuple[str | int, ...], str], path: tuple[str | int, ...] = ()) -> Any:
    """`value` with the texts at these ways put in their place."""
    if isinstance(value, str):
        return texts.get(path, value)
    if isinstance(value, Mapping):
        return {key: replaced(one, texts, (*path, str(key))) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [replaced(one, texts, (*path, i)) for i, one in enumerate(value)]
    return value
