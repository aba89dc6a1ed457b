"""What a column is called on a screen: its label, its unit and which direction is better.

A measure's name carries its unit as a suffix (`ttft_s`, `weights_bytes`, `decode_tokens_per_s`). Everything here can
be derived from that; the table only holds what the name alone does not say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True, kw_only=True)
class Name:
    """How to show one measure: `label` for headings, `unit` as printed, `scale` from the stored to the printed unit."""

    label: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 3
    better: Better = "neither"

    @property
    def heading(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def show(self, value: float) -> str:
        """`value` (in its stored unit) as text in the printed unit; not measured is an en dash."""
        if value is None or math.isnan(value):
            return "–"
        scaled = value * self.scale
        if math.isinf(scaled):
            return "∞" if scaled > 0 else "-∞"
        if (abs(scaled) >= 10 ** (self.digits - 1) and abs(scaled) >= 1000) or scaled == int(scaled):
            return f"{scaled:,.0f}"
        places = max(0, self.digits - 1 - math.floor(math.log10(abs(scaled))))
        return f"{scaled:,.{places}f}" if places < 7 else f"{scaled:.{self.digits - 1}e}"


_SUFFIXES: tuple[tuple[str, str, float, Better], ...] = (
    ("_tokens_per_s", "tokens/s", 1.0, "higher"),
    ("_bytes_per_s", "GB/s", 1e-9, "higher"),
    ("_requests_per_s", "requests/s", 1.0, "higher"),
    ("_bytes", "MB", 1e-6, "lower"),
    ("_cpu_s", "CPU s", 1.0, "lower"),
    ("_s", "ms", 1e3, "lower"),
    ("_usd", "USD", 1.0, "lower"),
    ("_share", "%", 100.0, "neither"),
    ("_rate", "%", 100.0, "neither"),
    ("_tokens", "tokens", 1.0, "neither"),
)

_KNOWN: dict[str, Name] = {
    "ttft_s": Name(label="Time to first token", unit="ms", scale=1e3, better="lower"),
    "tpot_s": Name(label="Time per output token", unit="ms", scale=1e3, better="lower"),
    "itl_p50_s": Name(label="Inter-token gap p50", unit="ms", scale=1e3, better="lower"),
    "foreign_cpu_share": Name(label="CPU used by others", unit="%", scale=100, better="lower"),
    "load_average": Name(label="Load average before", better="lower"),
    "memory_bandwidth_bytes_per_s": Name(label="Memory bandwidth, read", unit="GB/s", scale=1e-9),
    "perplexity_error": Name(label="Standard error of perplexity", better="lower"),
    "itl_p99_s": Name(label="Inter-token gap p99", unit="ms", scale=1e3, better="lower"),
    "ttft_p50_s": Name(label="Time to first token p50", unit="ms", scale=1e3, better="lower"),
    "ttft_p95_s": Name(label="Time to first token p95", unit="ms", scale=1e3, better="lower"),
    "ttft_p99_s": Name(label="Time to first token p99", unit="ms", scale=1e3, better="lower"),
    "itl_p95_s": Name(label="Inter-token gap p95", unit="ms", scale=1e3, better="lower"),
    "e2e_p50_s": Name(label="End to end p50", unit="s", better="lower"),
    "e2e_p95_s": Name(label="End to end p95", unit="s", better="lower"),
    "e2e_p99_s": Name(label="End to end p99", unit="s", better="lower"),
    "queue_p95_s": Name(label="Queueing p95", unit="ms", scale=1e3, better="lower"),
    "output_tokens_per_s": Name(label="Output, all sequences", unit="tokens/s", better="higher"),
    "requests_per_s": Name(label="Requests", unit="requests/s", better="higher"),
    "goodput_requests_per_s": Name(label="Goodput", unit="requests/s", better="higher"),
    "quality_goodput_requests_per_s": Name(label="Goodput, answered right", unit="requests/s", better="higher"),
    "occupancy_share": Name(label="Batch occupancy", unit="%", scale=100, better="higher"),
    "kv_use_share": Name(label="KV cells used", unit="%", scale=100),
    "overhead_share": Name(label="Scheduler's share of step time", unit="%", scale=100, better="lower"),
    "goodput_mlperf_server_requests_per_s": Name(label="Goodput, MLPerf server", unit="requests/s", better="higher"),
    "goodput_mlperf_interactive_requests_per_s": Name(label="Goodput, MLPerf interactive", unit="requests/s", better="higher"),
    "offered_requests_per_s": Name(label="Offered", unit="requests/s"),
    "failed_requests": Name(label="Failed requests", better="lower"),
    "stalls": Name(label="Stalls", better="lower"),
    "cost_per_million_tokens_usd": Name(label="Cost per million output tokens", unit="USD", better="lower"),
    "joules_per_token": Name(label="Energy per output token", unit="J", better="lower"),
    "prefix_hit_rate": Name(label="Prefix cache hits, by tokens", unit="%", scale=100, better="higher"),
    "attainment_share": Name(label="Requests within the limits", unit="%", scale=100, better="higher"),
    "compared_sequences": Name(label="Answers compared with alone"),
    "answered_share": Name(label="Questions answered right", unit="%", scale=100, better="higher"),
    "speedup": Name(label="Speed-up over plain", unit="x", better="higher"),
    "predicted_speedup": Name(label="Speed-up predicted", unit="x", better="higher"),
    "acceptance_rate": Name(label="Acceptance rate", unit="%", scale=100, better="higher"),
    "accepted_share": Name(label="Drafts accepted", unit="%", scale=100, better="higher"),
    "break_even_acceptance_rate": Name(label="Break-even acceptance", unit="%", scale=100, better="lower"),
    "tokens_per_target_step": Name(label="Tokens per target step", better="higher"),
    "drafted_step_share": Name(label="Steps with a draft", unit="%", scale=100),
    "draft_share": Name(label="Drafting's share of time", unit="%", scale=100, better="lower"),
    "verify_cost": Name(label="Cost of a verifying step", unit="plain steps", better="lower"),
    "plain_decode_tokens_per_s": Name(label="Decode, plain", unit="tokens/s", better="higher"),
    "differing_sequences": Name(label="Sequences that differ from alone", better="lower"),
    "e2e_s": Name(label="End to end", unit="s", better="lower"),
    "load_s": Name(label="Load time", unit="s", better="lower"),
    "seconds": Name(label="Duration", unit="s", better="lower"),
    "prefill_tokens_per_s": Name(label="Prefill", unit="tokens/s", better="higher"),
    "decode_tokens_per_s": Name(label="Decode", unit="tokens/s", better="higher"),
    "perplexity": Name(label="Perplexity", digits=5, better="lower"),
    "perplexity_increase_share": Name(label="Perplexity increase", unit="%", scale=100, better="lower"),
    "nll": Name(label="Loss per token", unit="nats", better="lower"),
    "kl_mean": Name(label="KL divergence, mean", unit="nats", better="lower"),
    "kl_p99": Name(label="KL divergence, p99", unit="nats", better="lower"),
    "same_top_share": Name(label="Same top token", unit="%", scale=100, better="higher"),
    "flip_share": Name(label="Answers flipped", unit="%", scale=100, better="lower"),
    "accuracy": Name(label="Multiple-choice accuracy", unit="%", scale=100, better="higher"),
    "file_bytes": Name(label="File", unit="MB", scale=1e-6, digits=4, better="lower"),
    "bits_per_weight": Name(label="Bits per weight", better="lower"),
    "peak_memory_bytes": Name(label="Peak memory", unit="MB", scale=1e-6, digits=4, better="lower"),
    "bandwidth_share": Name(label="Share of memory bandwidth", unit="%", scale=100, better="higher"),
    "send_lag_p50_s": Name(label="Sent late p50", unit="ms", scale=1e3, better="lower"),
    "send_lag_p99_s": Name(label="Sent late p99", unit="ms", scale=1e3, better="lower"),
    "send_lag_max_s": Name(label="Sent late at most", unit="ms", scale=1e3, better="lower"),
    "read_lag_p50_s": Name(label="Read after arrival p50", unit="ms", scale=1e3, better="lower"),
    "read_lag_p99_s": Name(label="Read after arrival p99", unit="ms", scale=1e3, better="lower"),
    "shared_read_share": Name(label="Events that shared a read", unit="%", scale=100, better="lower"),
    "client_cpu_share": Name(label="Capture's share of a core", unit="%", scale=100, better="lower"),
    "clock_drift_s": Name(label="Drift of the clocks", unit="ms", scale=1e3, better="lower"),
    "cold_requests": Name(label="Requests that waited for a connection", better="lower"),
    "reconnects": Name(label="Connections replaced", better="lower"),
    "resent_requests": Name(label="Requests sent again on a new connection", better="lower"),
    "client_peak_memory_bytes": Name(label="Capture's peak memory", unit="MB", scale=1e-6, digits=4, better="lower"),
    "client_bound": Name(label="Limited by the client", better="lower"),
    "cpu_s": Name(label="CPU time", unit="s", better="lower"),
    "wall_s": Name(label="Wall time", unit="s"),
    "cpu_s_per_token": Name(label="CPU time per output token, prefill included", unit="ms", scale=1e3, better="lower"),
}


def describe(column: str) -> Name:
    """The `Name` of a measure or of a frame column such as `metrics.ttft_s` or `params.threads`."""
    name = column.removeprefix("metrics.").removeprefix("params.")
    if name in _KNOWN:
        return _KNOWN[name]
    for suffix, unit, scale, better in _SUFFIXES:
        if name.endswith(suffix) and name != suffix.lstrip("_"):
            return Name(label=_words(name.removesuffix(suffix)), unit=unit, scale=scale, better=better)
    return Name(label=_words(name))


def _words(name: str) -> str:
    words = name.replace("_", " ").replace(".", " ").strip()
    return words[:1].upper() + words[1:]
