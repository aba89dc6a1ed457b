"""What a trial's requests asked: speed can be compared only where it is the same, whoever answers."""

from __future__ import annotations

from collections.abc import Sequence

from lab.records import Generation, Request

OTHER = "Their workloads differ (other experiment, prompts or longest answers)"
"""Why the speed of two trials is not tested."""
Asked = tuple[str | int, int, bool]


def of(request: Request) -> Asked:
    """The text that a user gave (of bare tokens their number), how long the answer may be, and whether it is always so long.

    What stands around the user's text (a system prompt, a chat template) belongs to the configuration, not to the workload.
    """
    what: str | int
    if request.messages is not None:
        what = "\n".join(message.content for message in request.messages if message.role == "user")
    elif request.prompt is not None:
        what = request.prompt
    else:
        what = len(request.tokens or ())
    return what, request.decoding.max_tokens, request.decoding.ignore_eos


def shared(before: Sequence[Generation], after: Sequence[Generation]) -> tuple[list[Generation], list[Generation]]:
    """The generations of both sides whose requests asked the same as one of the other side; none where nothing was."""
    left, right = ([of(one.request) for one in side] for side in (before, after))
    both = set(left) & set(right)
    return ([one for one, asked in zip(before, left, strict=True) if asked in both],
            [one for one, asked in zip(after, right, strict=True) if asked in both])
