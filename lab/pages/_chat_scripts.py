"""What the scripted engine says on the chat page: a guide that sets off every guardrail, and an editor that corrects it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from lab.safety.calling import CHOOSE, FILL, NOTHING

LEAK = "AKIAIOSFODNN7EXAMPLE"
"""The key that Amazon's own documentation uses as an example; it opens nothing."""
_TOOLS = (("run_shell", r"\bshell\b|\bcommand\b"), ("delete_file", r"\bdelete|\bremove"), ("send_email", r"\bmail|\bsend\b"),
          ("date", r"\bdate\b|\btoday\b|\bwhich day\b"), ("search", r"\bsearch|\blook up\b|\bfind\b"),
          ("calculator", r"\d\s*[-+*/]\s*\(?\d"))


def guide(prompt: str) -> str:
    """Answers by the words of the last question; asks for a tool where one fits, even one that nobody may call."""
    question = prompt.rsplit("user: ", 1)[-1].strip()
    if prompt.startswith(f"system: {CHOOSE}"):
        return json.dumps({"tool": next((name for name, words in _TOOLS if re.search(words, question, re.I)), NOTHING)})
    if prompt.startswith(f"system: {FILL}"):
        return json.dumps(_arguments(prompt, question))
    if found := re.search(r"It says: (.+)", question, re.S):
        return f"I used a tool, and this is what it found: {found[1]}"
    if found := re.search(r"The tool (\w+) was not used: (.+)", question, re.S):
        return f"I wanted to use {found[1]}, but {found[2]}"
    if re.search(r"\bkey\b|\bsecret\b", question, re.I):
        return f"Of course. The service is reached with a key, which every developer gets. Ours is {LEAK}, and it never expires."
    if re.search(r"\breach\b|\bcontact\b|\baddress\b", question, re.I):
        return "You can write to ann.meyer@example.org at any time, and she answers within a day."
    if re.search(r"\bpromise\b|\bguarantee\b|\binvest", question, re.I):
        return "This will double your money within a year. I promise that nothing can go wrong."
    return ("I am a script and no model: I answer by the words of a question, so that everything here can be tried at once. "
            f"Ask for a sum, a date or a secret key, or have a file deleted. You wrote: {question}")


def editor(prompt: str) -> str:
    """A second model that takes promises out of an answer and leaves all others as they are."""
    answer = prompt.rsplit("<<<\n", 1)[-1].rsplit("\n>>>", 1)[0]
    if not re.search(r"\bpromise\b|\bguarantee", answer, re.I):
        return "OK"
    return "This may grow within a year or lose value. Nobody can promise that nothing can go wrong."


SCRIPTS: Mapping[str, Callable[[str], str]] = {"guide": guide, "editor": editor}


def _arguments(prompt: str, question: str) -> dict[str, str]:
    tool = next((name for name, _ in _TOOLS if f"\n{name}: " in prompt), "")
    mail = re.search(r"[\w.+-]+@[\w.-]+\w", question)
    file = re.search(r"[\w-]+\.\w+", question)
    if tool == "calculator":
        return {"expression": max(re.findall(r"[\d(][\d+*/(). -]*[\d)]", question), key=len, default="1 + 1")}
    if tool == "send_email":
        return {"to": mail[0] if mail else "ann@example.org", "subject": "A message", "body": question}
    if tool == "delete_file":
        return {"name": file[0] if file else "draft.txt"}
    return {"query": question} if tool == "search" else {}
