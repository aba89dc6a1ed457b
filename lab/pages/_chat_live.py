"""One question on its way: it is answered beside the page, so that the page can show the answer grow and ask a person."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.errors import LabError
from lab.pages import _chat_engines as engines
from lab.pages._chat_engines import Which
from lab.records import Decoding, Message
from lab.safety import Chain, Pending, ToolCall
from lab.safety.calling import Ability
from lab.safety.conversation import Called, Conversation, Exchange, made


@dataclass(kw_only=True)
class Side:
    """One configuration that answers: which engine under which chain, and what was said with it so far."""

    which: Which
    chain: Chain
    label: str
    messages: tuple[Message, ...] = ()


@dataclass(kw_only=True)
class Answered:
    """What one side made of the question."""

    label: str
    begun: bool = False
    exchange: Exchange | None = None
    problem: str = ""
    """Why there is no answer, or only a part of one."""


@dataclass(kw_only=True)
class Live:
    """A question (or a tool call by hand) and what came of it; read by the page while a thread writes it."""

    question: str = ""
    call: ToolCall | None = None
    sides: list[Side] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    called: Called | None = None
    problem: str = ""
    done: bool = False
    _pending: Pending | None = None
    _stopped: bool = False

    @property
    def pending(self) -> Pending | None:
        """The tool call that waits for a person now."""
        return self._pending if self._pending is not None and self._pending.open else None

    def confirm(self, pending: Pending) -> None:
        self._pending = pending

    def stop(self) -> None:
        """End what is being written, and start nothing more; a call that waits for a person is refused."""
        self._stopped = True
        if self._pending is not None:
            self._pending.answer(False, by="the person who stopped the answer")
        for answered in self.answers:
            if answered.exchange is not None:
                answered.exchange.stop()

    def ask(
        self, sides: Sequence[Side], *, abilities: Sequence[Ability], role: str, session: str, decoding: Decoding, tools: bool
    ) -> None:
        """Have every side answer, one after another."""
        self.sides = list(sides)
        self.answers = [Answered(label=side.label) for side in sides]
        self._begin(lambda: self._asked(sides, abilities, role, session, decoding, tools))

    def try_tool(self, chain: Chain, abilities: Sequence[Ability], role: str, session: str) -> None:
        """Make a call by hand, under the same chain."""
        call = self.call
        assert call is not None

        def run() -> None:
            self.called = made(chain, {one.name: one for one in abilities}, call, role=role, session=session,
                               confirm=self.confirm)

        self._begin(run)

    def _begin(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except LabError as error:
                self.problem = str(error)
            except Exception as error:  # the page shows a sentence, whatever broke
                self.problem = f"This could not be done ({type(error).__name__}: {error})."
            finally:
                self.done = True

        threading.Thread(target=run, daemon=True, name="chat").start()

    def _asked(
        self, sides: Sequence[Side], abilities: Sequence[Ability], role: str, session: str, decoding: Decoding, tools: bool
    ) -> None:
        for side, answered in zip(sides, self.answers, strict=True):
            if self._stopped:
                return
            answered.begun = True
            try:
                talk = Conversation(engines.opened(side.which), side.chain, abilities=abilities, role=role, session=session,
                                    decoding=decoding, messages=side.messages)
                answered.exchange = talk.ask(self.question, tools=tools, confirm=self.confirm)
                if self._stopped:
                    answered.exchange.stop()
                for _ in answered.exchange:
                    pass
                answered.problem = answered.exchange.problem
                side.messages = talk.messages
            except LabError as error:
                answered.problem = str(error)
            except Exception as error:  # one side that breaks must not take the other's answer away
                answered.problem = f"The answer broke off ({type(error).__name__}: {error})."
            if answered.problem and (side.which.engine != "llama_cpp" or side.which.draft != "none"):
                engines.forget(side.which)  # a server may be gone; it is looked for anew
