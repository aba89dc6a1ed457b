"""How one situation is asked in one arm: from memory, with passages that were found, or with a tool that the model calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lab.arithmetic import calculator
from lab.experiments import _hallucination_tools as tools
from lab.experiments._hallucination_items import TODAY, Situation
from lab.experiments._hallucination_tools import Called
from lab.records import Decoding, Generation, Question, Request
from lab.retrieval import Found, Index

ARMS = ("closed-book", "retrieval", "tool")
TOOLS: dict[str, tuple[str, ...]] = {"reasoning": ("calculator",), "summarisation": ("search",), "technical": ("search",),
                                     "outdated": ("search", "date")}
STOPS = {"summarisation": ("\n\n", "\nText:")}
OUTPUT_TOKENS = {"reasoning": 56, "summarisation": 64, "technical": 40, "outdated": 32}
CALL_TOKENS = 48
_KNOWS = "Answer each question in one sentence. If you do not know the answer, say: I don't know.\n\n"
_HEAD: dict[tuple[str, str], str] = {
    ("reasoning", "closed-book"):
        "Question: Tom has 3 bags with 4 apples each and eats 2 apples. How many apples are left?\n"
        "Answer: 3 * 4 = 12. 12 - 2 = 10. The answer is 10.\n\n",
    ("reasoning", "retrieval"): "",
    ("reasoning", "tool"):
        "Question: Tom has 3 bags with 4 apples each and eats 2 apples. How many apples are left?\n"
        "Calculator: 3 * 4 - 2 = 10\nAnswer: The answer is 10.\n\n",
    ("facts", "closed-book"):
        f"{_KNOWS}Question: What is the capital of France?\nAnswer: The capital of France is Paris.\n\n"
        "Question: What did my neighbour have for breakfast?\nAnswer: I don't know.\n\n",
    ("facts", "found"):
        f"{_KNOWS}Found: Paris has been the capital of France since the Middle Ages.\nQuestion: What is the capital of France?\n"
        "Answer: The capital of France is Paris.\n\n"
        "Found: Bread is baked from flour and water.\nQuestion: What did my neighbour have for breakfast?\n"
        "Answer: I don't know.\n\n",
}
_CALLS = {
    "reasoning": 'Question: Tom has 3 bags with 4 apples each and eats 2 apples. How many apples are left?\n'
                 'Call: {"tool": "calculator", "input": "3 * 4 - 2"}\n\n',
    "summarisation": "",
    "technical": 'Question: What is the capital of France?\nCall: {"tool": "search", "input": "capital of France"}\n\n',
    "outdated": 'Question: What is the capital of France?\nCall: {"tool": "search", "input": "capital of France"}\n\n'
                'Question: Which day is it?\nCall: {"tool": "date", "input": "today"}\n\n',
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One item as it was asked: its request, the passages that were shown, and the call that was made."""

    question: Question
    request: Request
    found: tuple[Found, ...] = ()
    called: Called | None = None


Ask = Callable[[Sequence[Request]], Sequence[Generation]]


def prepare(situation: Situation, arm: str, index: Index | None, ask: Ask, *, k: int, decoding: Decoding) -> list[Asked]:
    """The requests of one arm. In the arm tool the model first writes a call for each item, which is carried out here."""
    questions = situation.items
    found: list[tuple[Found, ...]] = [()] * len(questions)
    called: list[Called | None] = [None] * len(questions)
    if arm == "retrieval" and index is not None:
        queries = [q.context if situation.name == "summarisation" else q.question for q in questions]
        found = [tuple(one) for one in index.search_many(queries, k)]
    if arm == "tool":
        calls = ask([_call(situation.name, q, decoding) for q in questions])
        called = [_carried_out(situation.name, g.text, index, k) for g in calls]
    how = replace(decoding, max_tokens=OUTPUT_TOKENS[situation.name], stop=STOPS.get(situation.name, ("\n",)))
    return [Asked(question=q, found=f, called=c, request=Request(
        id=f"{situation.name}/{q.id}", prompt=_prompt(situation.name, arm, q, f, c), decoding=how,
        tags=_tags(situation.name, arm, q))) for q, f, c in zip(questions, found, called, strict=True)]


def closed_book(question: str) -> str:
    """The prompt of a question from memory alone."""
    return f"{_HEAD['facts', 'closed-book']}Question: {question}\nAnswer:"


def _tags(situation: str, arm: str, question: Question) -> dict[str, str]:
    group = {"group": f"{situation}/{question.group}"} if question.group else {}
    return {"set": situation, "item": question.id, "arm": arm, "question": question.question, **group}


def _prompt(situation: str, arm: str, question: Question, found: Sequence[Found], called: Called | None) -> str:
    if situation == "summarisation":
        key = "".join(f"Key sentence: {one.passage.text}\n" for one in found) + (f"Found: {called.said}\n" if called else "")
        return f"Text: {question.context}\n{key}{question.question}\nSummary:"
    if situation == "reasoning":
        shown = "".join("Question: {}\nAnswer: {}\n\n".format(*one.passage.text.split("\n", 1)) for one in found)
        line = f"Calculator: {called.said}\n" if called else ""
        return f"{_HEAD['reasoning', arm]}{shown}Question: {question.question}\n{line}Answer:"
    if arm == "closed-book":
        return closed_book(question.question)
    texts = [one.passage.text for one in found] if called is None else [called.said]
    shown = "".join(f"Found: {text}\n" for text in texts)
    return f"{_HEAD['facts', 'found']}{shown}Question: {question.question}\nAnswer:"


def _call(situation: str, question: Question, decoding: Decoding) -> Request:
    summary = situation == "summarisation"
    asked = f"Text: {question.context[:600]}\nWhat is it about?" if summary else f"Question: {question.question}"
    how = replace(decoding, max_tokens=CALL_TOKENS, json_schema=tools.schema(TOOLS[situation]), stop=())
    return Request(id=f"{situation}/{question.id}/call", prompt=f"{_CALLS[situation]}{asked}\nCall:", decoding=how)


def _carried_out(situation: str, text: str, index: Index | None, k: int) -> Called:
    def search(query: str) -> str:
        return " ".join(one.passage.text for one in index.search(query, k)) if index is not None else "Nothing."

    known: dict[str, Callable[[str], str]] = {"calculator": calculator, "search": search,
                                              "date": lambda _: f"Today is {TODAY}."}
    return tools.call(text.strip(), {name: known[name] for name in TOOLS[situation]})
