"""Scripted models whose knowledge ends where their name says, so that the experiment can be held against the truth.

`knows-2021` answers what is dated up to 2021 and is wrong afterwards; `knows-all` and `knows-none` always and never are right;
`knows-2021-70` is right on 70% of what it knows, and with `-abstains` behind it a model says that it does not know instead of
being wrong. `abstains` knows nothing and says so; `fades` knows evenly less from the first year to the last. Each reads what it
is shown and answers from it, but for `blind-2021`, which ends like `knows-2021` and to which documents are of no use.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from lab.experiments._cutoff_items import Item
from lab.metrics.equivalence import alike

_NAME = re.compile(r"(knows|blind)-(\d{4}|all|none)(?:-(\d{1,3}))?(-abstains)?|(abstains)|(fades)")
UNKNOWN, WRONG = " I don't know.\n", " something else entirely\n"


def reply_of(model: str, items: Sequence[Item]) -> Callable[[str], str] | None:
    """What the model of that name answers to a prompt that ends with one of these questions; None for any other name."""
    named = _NAME.fullmatch(model)
    if named is None:
        return None
    known = {item.question.question: item for item in items}
    first, last = min(item.year for item in items), max(item.year for item in items)
    until = {"all": 9999, "none": 0, None: 0}.get(named[2]) if not (named[2] or "").isdigit() else int(named[2])

    def knows(item: Item) -> bool:
        luck = int(hashlib.sha256(item.question.id.encode()).hexdigest()[:8], 16) % 100
        if named[6]:
            return luck < 100 * (last + 1 - item.year) / (last + 2 - first)
        return item.year <= (until or 0) and luck < int(named[3] or 100)

    def reply(prompt: str) -> str:
        before, _, asked = prompt.rpartition("Question: ")
        item, shown = known[asked.split("\nAnswer:")[0]], before.rpartition("\n\n")[2]
        reads = bool(shown) and named[1] != "blind" and any(alike(shown, one) for one in item.question.references)
        return f" {item.question.references[0]}\n" if reads or knows(item) else UNKNOWN if named[4] or named[5] else WRONG

    return reply
