"""How an item is asked: as plain text to be continued, or as a conversation in the model's own template."""

from __future__ import annotations

import re

from lab.errors import LabError
from lab.experiments._quality_sets import Asked, Kind
from lab.metrics.references import of
from lab.records import Decoding, Message, Question, Request

PLAIN: dict[Kind, str] = {
    "choice": "{context}Question: {question}\nOptions:\n{options}\nAnswer:",
    "open": "{context}Question: {question}\nAnswer:",
    "summary": "Text: {context}{question}\nSummary:",
}
CHAT: dict[Kind, str] = {
    "choice": "{context}{question}\n{options}\nAnswer with one of the options and nothing else.",
    "open": "{context}{question}\nAnswer in a few words.",
    "summary": "{context}{question}",
}
STOPS: dict[Kind, tuple[str, ...]] = {"choice": ("\n",), "open": ("\n",), "summary": ("\n\n", "\nText:")}
"""Where a continued text ends; a conversation ends by itself."""
OUTPUT_TOKENS: dict[Kind, int] = {"choice": 16, "open": 32, "summary": 96}
FIELDS = ("question", "options", "context")


def check(template: str) -> None:
    """Raise `LabError` for a template of the user's that names no question or something that is not there."""
    named = re.findall(r"\{([^{}]*)\}", template)
    if unknown := [name for name in named if name not in FIELDS]:
        raise LabError(f"--template names {{{unknown[0]}}}; it can hold {{question}}, {{options}} and {{context}}.")
    if template and not {"question", "context"} & set(named):
        raise LabError("--template holds neither {question} nor {context}, so every item would be asked the same.")


def requests(asked: Asked, *, style: str, template: str, decoding: Decoding, output_tokens: int) -> list[Request]:
    """One request for each item; its tags say whose it is, so that whoever reads the generation can find the item again.

    The tag `solved` is how many characters of a plain prompt the solved examples take.
    """
    given = template.replace("\\n", "\n") or (CHAT if style == "chat" else PLAIN)[asked.kind]
    limit = output_tokens or OUTPUT_TOKENS[asked.kind]
    out = []
    for question in asked.questions:
        tags = {"set": asked.name, "item": question.id, "kind": asked.kind, "question": question.question,
                **({"group": f"{asked.name}/{question.group}"} if question.group else {})}
        how = Decoding(max_tokens=limit, temperature=decoding.temperature, top_p=decoding.top_p, seed=decoding.seed,
                       stop=() if style == "chat" else STOPS[asked.kind])
        if style == "chat":
            turns = [m for shot in asked.shots for m in (Message(role="user", content=_filled(given, shot)),
                                                         Message(role="assistant", content=of(shot)[0]))]
            out.append(Request(id=asked.item(question), decoding=how, tags=tags,
                               messages=(*turns, Message(role="user", content=_filled(given, question)))))
        else:
            solved = "".join(f"{_filled(given, shot)} {of(shot)[0]}\n\n" for shot in asked.shots)
            out.append(Request(id=asked.item(question), prompt=solved + _filled(given, question), decoding=how,
                               tags={**tags, **({"solved": str(len(solved))} if solved else {})}))
    return out


def _filled(template: str, question: Question) -> str:
    values = {"question": question.question, "options": "\n".join(f"- {choice}" for choice in question.choices),
              "context": f"{question.context}\n" if question.context else ""}
    return re.sub(r"\{(question|options|context)\}", lambda found: values[found[1]], template)
