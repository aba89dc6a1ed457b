"""A conversation under a chain of guards: a question in, perhaps a tool, an answer out, and a record of what was done to it.

    talk = Conversation(engine, chain, role="user", abilities=tools)
    exchange = talk.ask("What is 17 * 23?", tools=True, confirm=show_dialog)
    for piece in exchange: ...                     # what may be shown, as it comes
    exchange.decisions, exchange.original, exchange.generation
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lab.engines import Engine
from lab.errors import LabError
from lab.records import Chunk, Decoding, Generation, Message, Request, Usage
from lab.safety.calling import Ability, choose
from lab.safety.chain import Ask, Chain, Ruling, Stream
from lab.safety.decisions import Checked, Decision, ToolCall

Stage = Literal["waiting", "question", "choosing", "tool", "answer", "second look", "done"]
WITHHELD = "The result was withheld."
_COUNTABLE_TOKENS = 2**30
"""A server that does not say its context says something larger; nothing is left out for it."""


@dataclass(frozen=True, kw_only=True)
class Called:
    """A tool call with the ruling on it, what the tool said, and how its words were checked. `said` is empty when refused."""

    call: ToolCall
    ruling: Ruling
    said: str = ""
    failed: str = ""
    """Why the tool could do nothing, though it was allowed to."""
    checked: Checked | None = None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return self.ruling.decisions + (self.checked.decisions if self.checked else ())


class Conversation:
    """Turns of one session under one chain. Not thread-safe; `messages` is what the model will have read so far."""

    def __init__(
        self, engine: Engine, chain: Chain, *, abilities: Sequence[Ability] = (), role: str = "user", session: str = "",
        decoding: Decoding = Decoding(max_tokens=256), messages: Sequence[Message] = (),
    ) -> None:
        self.engine, self.chain, self.role, self.session, self.decoding = engine, chain, role, session, decoding
        self.abilities: Mapping[str, Ability] = {one.name: one for one in abilities}
        self.messages = tuple(messages)

    def ask(self, text: str, *, tools: bool = False, confirm: Ask | None = None) -> Exchange:
        """The exchange that answers `text`; iterate over it. With `tools` the model may first make one call."""
        return Exchange(self, text, tools=tools, confirm=confirm)

    def call(self, call: ToolCall, *, confirm: Ask | None = None) -> Called:
        """Make a tool call, if the chain lets it. What the tool says is looked at like what a user says."""
        return made(self.chain, self.abilities, call, role=self.role, session=self.session, confirm=confirm)


def made(
    chain: Chain, abilities: Mapping[str, Ability], call: ToolCall, *, role: str, session: str = "", confirm: Ask | None = None
) -> Called:
    """One tool call under `chain`, carried out when it is allowed."""
    ruling = chain.tool(call, role=role, session=session, ask=confirm)
    if not ruling.allowed:
        return Called(call=call, ruling=ruling)
    ability = abilities.get(call.name)
    if ability is None:
        return Called(call=call, ruling=ruling, failed=f"There is no tool '{call.name}' here.")
    try:
        said = ability.run(ruling.call.arguments)
    except LabError as error:
        return Called(call=call, ruling=ruling, failed=str(error))
    except Exception as error:  # a tool that breaks must not end the conversation
        return Called(call=call, ruling=ruling, failed=f"The tool broke ({type(error).__name__}).")
    checked = chain.input(said, role=role, session=session)
    return Called(call=call, ruling=ruling, said=WITHHELD if checked.blocked else checked.text, checked=checked)


class Exchange:
    """One question and its answer. Iterate over what may be shown; the rest can be read at any time, also by another thread.

    What cannot be done ends it with `problem`, a sentence; nothing is raised.
    """

    def __init__(self, talk: Conversation, question: str, *, tools: bool, confirm: Ask | None) -> None:
        self._talk, self._tools, self._confirm = talk, tools, confirm
        self._stream: Stream | None = None
        self._stopped = False
        self.question = question
        self.stage: Stage = "waiting"
        self.asked: Checked | None = None
        self.called: Called | None = None
        self.text = ""
        """What the user sees so far."""
        self.problem = ""
        self.generation: Generation | None = None
        """The model's own answer with its clock readings, once it has ended."""
        self.steps: list[tuple[str, int]] = []
        """Text and number of tokens of every step of the engine; more than one token is what drafting won."""
        self.unread = ""
        """Why no tool was called although the model tried."""
        self.left_out = 0
        """Messages of the beginning of the conversation for which the context had no room."""

    def stop(self) -> None:
        """End the answer with the next token; what was shown stays."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What the chain decided, in its order: on the question, the tool, the answer."""
        parts = [self.asked.decisions if self.asked else (), self.called.decisions if self.called else ()]
        return tuple(decision for part in parts for decision in part) + tuple(self._stream.decisions if self._stream else ())

    @property
    def blocked(self) -> Decision | None:
        """What blocked the question or its answer. A tool that was refused blocks neither."""
        found = (self.asked.decisions if self.asked else ()), tuple(self._stream.decisions if self._stream else ())
        return next((one for part in found for one in part if one.action == "block"), None)

    @property
    def original(self) -> str:
        """What the model wrote, as far as it came: for an operator, never for the user."""
        return self._stream.original if self._stream else ""

    @property
    def rewritten(self) -> bool:
        """Whether a second model put another answer in its place."""
        return any(decision.action == "rewrite" for decision in self.decisions)

    @property
    def held_whole(self) -> bool:
        """Whether nothing may be shown before a second model has read the whole answer."""
        return any(rule.action == "rewrite" for rule in self._talk.chain.policy.rules)

    @property
    def disclaimers(self) -> tuple[str, ...]:
        return self.asked.disclaimers if self.asked else ()

    @property
    def added_s(self) -> float:
        """Seconds of work that the chain added: to the question, and to the answer."""
        return (self.asked.added_s if self.asked else 0.0) + (self._stream.added_s if self._stream else 0.0)

    def __iter__(self) -> Iterator[str]:
        try:
            for piece in self._pieces():
                self.text += piece
                yield piece
        except LabError as error:
            self.problem = str(error)
        finally:
            self.stage = "done"

    def _pieces(self) -> Iterator[str]:
        talk = self._talk
        self.stage = "question"
        self.asked = talk.chain.input(self.question, role=talk.role, session=talk.session)
        if self.asked.blocked:
            yield self.asked.text
            return
        if self._tools and talk.abilities:
            self._use_a_tool(self.asked.text)
        if self._stopped:
            return
        self.stage = "answer"
        request = self._fitting(self.asked)
        self._stream = talk.chain.stream(self._chunks(request), role=talk.role, session=talk.session,
                                         disclaimers=self.asked.disclaimers)
        yield from self._stream
        if not self.blocked and self.text:
            talk.messages = (*talk.messages, Message(role="user", content=self._told(self.asked.text)),
                             Message(role="assistant", content=self.text))

    def _use_a_tool(self, question: str) -> None:
        talk = self._talk
        self.stage = "choosing"
        schemas = {tool.name: tool.schema for tool in talk.chain.policy.tools}
        try:
            wanted = choose(talk.engine, question, list(talk.abilities.values()), schemas, talk.decoding)
        except LabError as error:
            self.unread = str(error)
            return
        if wanted is not None and not self._stopped:
            self.stage = "tool"
            self.called = talk.call(wanted, confirm=self._confirm)

    def _told(self, question: str) -> str:
        """The question with what the tool had to say."""
        called = self.called
        if called is None:
            return question
        if called.said:
            return f"{question}\n\nThe tool {called.call.name} was used for this. It says: {called.said}"
        return f"{question}\n\nThe tool {called.call.name} was not used: {(called.failed or called.ruling.reason).rstrip('.')}."

    def _fitting(self, asked: Checked) -> Request:
        """The request, with as much of the conversation before it as the context takes."""
        talk = self._talk
        instructions = asked.instructions + (self.called.checked.instructions if self.called and self.called.checked else ())
        system = (Message(role="system", content="\n".join(dict.fromkeys(instructions))),) if instructions else ()
        question = Message(role="user", content=self._told(asked.text))
        before = list(talk.messages)
        while True:
            request = Request(messages=(*system, *before, question), decoding=talk.decoding)
            if not before or talk.engine.context_tokens > _COUNTABLE_TOKENS:
                return request
            if len(talk.engine.prompt_tokens(request)) + talk.decoding.max_tokens <= talk.engine.context_tokens:
                return request
            del before[:2]
            self.left_out = len(talk.messages) - len(before)

    def _chunks(self, request: Request) -> Iterator[str]:
        """The model's text, every token's clock reading kept."""
        engine = self._talk.engine
        seen: list[Chunk] = []
        cpu, sent = time.process_time(), engine.now()
        chunks = engine.stream(request)
        try:
            for chunk in chunks:
                seen.append(chunk)
                self._step(chunk, seen[-2] if len(seen) > 1 else None)
                if chunk.text:
                    yield chunk.text
                if self._stopped:
                    break
        finally:
            if (close := getattr(chunks, "close", None)) is not None:
                close()
            self.generation = _generation(request, seen, sent, time.process_time() - cpu)
        if seen and seen[-1].finish_reason is None and not self._stopped:
            self.generation = dataclasses.replace(self.generation, finish_reason="error", error="the answer broke off")
            self.problem = "The answer broke off before its end; ask again, or look at the server's own log."
        self.stage = "second look"

    def _step(self, chunk: Chunk, before: Chunk | None) -> None:
        """Note what one step of the engine gave; a server sends the tokens of a step one by one, and they arrive together."""
        if not (chunk.tokens or chunk.text):
            return
        if self.steps and before is not None and chunk.at_s == before.at_s:
            text, count = self.steps.pop()
            self.steps.append((text + chunk.text, count + len(chunk.tokens)))
        else:
            self.steps.append((chunk.text, len(chunk.tokens)))


def _generation(request: Request, seen: Sequence[Chunk], sent_s: float, cpu_s: float) -> Generation:
    """What came, as a record; one without an end was cancelled."""
    last = seen[-1] if seen else Chunk(at_s=sent_s)
    return Generation(
        request=request, text="".join(chunk.text for chunk in seen), sent_s=sent_s, ended_s=last.at_s, cpu_s=cpu_s,
        tokens=tuple(token for chunk in seen for token in chunk.tokens),
        tokens_at_s=tuple(chunk.at_s for chunk in seen for _ in chunk.tokens),
        usage=last.usage or Usage(), finish_reason=last.finish_reason or "cancelled")
