"""What a running vLLM counts: a reading of its `/metrics`, and the difference of two readings as a run's counts.

The names are vLLM's, which `lab serve` uses too. Counters only grow, gauges hold what is so at the moment of the reading.
Labels (engine, model) are summed over, so that several replicas behind one address count together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, kw_only=True)
class Counters:
    """One reading, or what happened between two. What the server does not report is NaN."""

    prompt_tokens: float
    generation_tokens: float
    prefix_queried_tokens: float
    prefix_hit_tokens: float
    drafts: float
    drafted_tokens: float
    accepted_tokens: float
    accepted_at_position: tuple[float, ...]
    """Accepted drafted tokens by their position in the draft, first first; empty without speculation."""
    preemptions: float
    finished: float
    kv_use_share: float
    """Now, of the KV cache's blocks (0 to 1)."""
    running: float
    waiting: float

    @property
    def prefix_hit_rate(self) -> float:
        """Share of queried prompt tokens found in the prefix cache; NaN when none was queried."""
        return _ratio(self.prefix_hit_tokens, self.prefix_queried_tokens)

    @property
    def acceptance_rate(self) -> float:
        """Accepted per drafted token; NaN when nothing was drafted."""
        return _ratio(self.accepted_tokens, self.drafted_tokens)

    def since(self, before: Counters) -> Counters:
        """What was counted after `before`; gauges as they are in this reading."""
        def grown(name: str) -> float:
            return float(getattr(self, name) - getattr(before, name))

        places = max(len(self.accepted_at_position), len(before.accepted_at_position))
        late, early = ([*c.accepted_at_position, *[0.0] * (places - len(c.accepted_at_position))] for c in (self, before))
        return Counters(
            prompt_tokens=grown("prompt_tokens"), generation_tokens=grown("generation_tokens"),
            prefix_queried_tokens=grown("prefix_queried_tokens"), prefix_hit_tokens=grown("prefix_hit_tokens"),
            drafts=grown("drafts"), drafted_tokens=grown("drafted_tokens"), accepted_tokens=grown("accepted_tokens"),
            accepted_at_position=tuple(a - b for a, b in zip(late, early, strict=True)),
            preemptions=grown("preemptions"), finished=grown("finished"),
            kv_use_share=self.kv_use_share, running=self.running, waiting=self.waiting,
        )


def parse(text: str) -> Counters:
    """The counters in a `/metrics` page (Prometheus text format)."""
    total: dict[str, float] = {}
    engines = 0
    place: dict[int, float] = {}
    for full, labels, value in samples(text):
        name = full.removeprefix("vllm:").removeprefix("lab:")
        total[name] = total.get(name, 0.0) + value
        engines += name == "kv_cache_usage_perc"
        if name == "spec_decode_num_accepted_tokens_per_pos_total":
            position = int(labels.get("position", 0))
            place[position] = place.get(position, 0.0) + value

    def count(name: str) -> float:
        return total.get(name, math.nan)

    return Counters(
        prompt_tokens=count("prompt_tokens_total"), generation_tokens=count("generation_tokens_total"),
        prefix_queried_tokens=count("prefix_cache_queries_total"), prefix_hit_tokens=count("prefix_cache_hits_total"),
        drafts=count("spec_decode_num_drafts_total"), drafted_tokens=count("spec_decode_num_draft_tokens_total"),
        accepted_tokens=count("spec_decode_num_accepted_tokens_total"),
        accepted_at_position=tuple(place.get(i, 0.0) for i in range(max(place, default=-1) + 1)),
        preemptions=count("num_preemptions_total"), finished=count("request_success_total"),
        kv_use_share=_ratio(count("kv_cache_usage_perc"), engines), running=count("num_requests_running"),
        waiting=count("num_requests_waiting"),
    )


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of every sample line; lines that are none are passed over."""
    for line in text.splitlines():
        if line.startswith("#") or not (found := _LINE.match(line.strip())):
            continue
        try:
            yield found[1], dict(_LABEL.findall(found[2] or "")), float(found[3])
        except ValueError:
            continue


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
