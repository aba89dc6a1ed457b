"""What the server counted since it started, in Prometheus' text format.

The names are vLLM's with `lab:` in front, so that one reader understands both.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import dataclass, field

from lab.engines.http.step_loop import Now
from lab.records import Generation

BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)


@dataclass(kw_only=True)
class Counters:
    """Totals; the server's event loop is the only one to change them."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """By finish reason; `abort` is a client that went away, or a server that stopped."""
    refused: Counter[int] = field(default_factory=Counter)
    ttft_s: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    ttft_sum_s: float = 0.0

    def first_token(self, seconds: float) -> None:
        self.ttft_s[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self.ttft_sum_s += seconds

    def end(self, generation: Generation) -> None:
        usage = generation.usage
        self.prompt_tokens += usage.prompt_tokens or 0
        self.cached_tokens += usage.cached_tokens or 0
        self.drafted_tokens += usage.drafted_tokens or 0
        self.accepted_tokens += usage.accepted_tokens or 0
        self.ended[generation.finish_reason] += 1

    def text(self, now: Now, *, cells: int, model: str) -> str:
        """All of it as Prometheus reads it."""
        label = 'model_name="{}"'.format(model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " "))
        lines: list[str] = []

        def show(name: str, kind: str, help_: str, values: dict[str, float]) -> None:
            lines.extend([f"# HELP lab:{name} {help_}", f"# TYPE lab:{name} {kind}"])
            lines.extend(f"lab:{name}{{{label}{more}}} {value:.10g}" for more, value in values.items())

        show("num_requests_running", "gauge", "Requests that are being decoded.", {"": now.running})
        show("num_requests_waiting", "gauge", "Requests that wait for room.", {"": now.waiting})
        show("kv_cache_usage_perc", "gauge", "Share of the KV cells in use, from 0 to 1.", {"": now.cells / cells})
        show("num_preemptions_total", "counter", "Requests that lost their cells to older ones.", {"": now.preemptions})
        show("prompt_tokens_total", "counter", "Prompt tokens of ended requests.", {"": self.prompt_tokens})
        show("generation_tokens_total", "counter", "Tokens sent.", {"": self.generated_tokens})
        show("prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.", {"": self.prompt_tokens})
        show("prefix_cache_hits_total", "counter", "Prompt tokens found there.", {"": self.cached_tokens})
        show("spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.", {"": self.drafted_tokens})
        show("spec_decode_num_accepted_tokens_total", "counter", "Drafted tokens accepted.", {"": self.accepted_tokens})
        show("request_success_total", "counter", "Requests answered, by how they ended.",
             {f',finished_reason="{reason}"': self.ended[reason] for reason in ("stop", "length", "abort")})
        show("request_refused_total", "counter", "Requests refused, by HTTP status.",
             {f',status="{status}"': count for status, count in self.refused.items()})
        self._histogram(lines, label)
        return "\n".join(lines) + "\n"

    def _histogram(self, lines: list[str], label: str) -> None:
        name, total = "lab:time_to_first_token_seconds", 0
        lines.extend([f"# HELP {name} From the request's arrival to its first token.", f"# TYPE {name} histogram"])
        for bound, count in zip((*BUCKETS_S, math.inf), self.ttft_s, strict=True):
            total += count
            shown = "+Inf" if bound == math.inf else f"{bound:g}"
            lines.append(f'{name}_bucket{{{label},le="{shown}"}} {total}')
        lines.extend([f"{name}_sum{{{label}}} {self.ttft_sum_s:.10g}", f"{name}_count{{{label}}} {total}"])
