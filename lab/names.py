"""What a column is called on a screen: its label, its unit and which direction is better.

A measure's name carries its unit as a suffix (`ttft_s`, `weights_bytes`, `decode_tokens_per_s`). Everything here can
be derived from that; the table only holds what the name alone does not say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
        if self.unit == "year":
            return f"{scaled:.0f}"
        if (abs(scaled) >= 10 ** (self.digits - 1) and abs(scaled) >= 1000) or scaled == int(scaled):
            return f"{scaled:,.0f}"
        places = max(0, self.digits - 1 - math.floor(math.log10(abs(scaled))))
        return f"{scaled:,.{places}f}" if places < 7 else f"{scaled:.{self.digits - 1}e}"


SUFFIXES: tuple[tuple[str, str, float, Better], ...] = (
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

KNOWN: dict[str, Name] = {
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
    "rate": Name(label="Offered rate", unit="requests/s"),
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
    "word_perplexity": Name(label="Perplexity per word", digits=5, better="lower"),
    "nll_per_word": Name(label="Loss per word", unit="nats", better="lower"),
    "exact_match": Name(label="Exact match", unit="%", scale=100, better="higher"),
    "contains": Name(label="Contains a reference", unit="%", scale=100, better="higher"),
    "token_f1": Name(label="Token F1", unit="%", scale=100, better="higher"),
    "bleu": Name(label="BLEU, mean of items", scale=100, better="higher"),
    "chrf": Name(label="chrF, mean of items", scale=100, better="higher"),
    "bleu_corpus": Name(label="BLEU", scale=100, better="higher"),
    "chrf_corpus": Name(label="chrF", scale=100, better="higher"),
    "rouge_1": Name(label="ROUGE-1", scale=100, better="higher"),
    "rouge_2": Name(label="ROUGE-2", scale=100, better="higher"),
    "rouge_l": Name(label="ROUGE-L", scale=100, better="higher"),
    "similarity": Name(label="Embedding similarity", better="higher"),
    "embedding_distance": Name(label="Distance in meaning from the reference"),
    "equivalence": Name(label="Says the same as a reference", unit="%", scale=100, better="higher"),
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
    "caught": Name(label="Attacks caught", unit="%", scale=100, better="higher"),
    "false_alarm": Name(label="False alarms on harmless texts", unit="%", scale=100, better="lower"),
    "masked": Name(label="Leaks masked", unit="%", scale=100, better="higher"),
    "caught_rate": Name(label="Caught, of this set", unit="%", scale=100),
    "catch_gain": Name(label="Caught more than the baseline", unit="points", scale=100, better="higher"),
    "false_alarm_change": Name(label="False alarms against the baseline", unit="points", scale=100, better="lower"),
    "catch_gain_p": Name(label="p of the catch gain"),
    "false_alarm_change_p": Name(label="p of the change in false alarms"),
    "under_policy_share": Name(label="Harmless texts answered under a policy", unit="%", scale=100),
    "added_p50_s": Name(label="Added per text p50", unit="ms", scale=1e3, better="lower"),
    "added_p99_s": Name(label="Added per text p99", unit="ms", scale=1e3, better="lower"),
    "first_text_s": Name(label="Time to first visible text", unit="ms", scale=1e3, better="lower"),
    "first_text_added_s": Name(label="Added to time to first visible text", unit="ms", scale=1e3, better="lower"),
    "waited_chunks": Name(label="Chunks waited for before the first text", better="lower"),
    "work_first_s": Name(label="Chain's work before the first text", unit="ms", scale=1e3, better="lower"),
    "work_s": Name(label="Chain's work on an answer", unit="ms", scale=1e3, better="lower"),
    "held_characters": Name(label="Most characters held back", better="lower"),
    "auc": Name(label="AUC", better="higher"),
    "checked_by": Name(label="Right or hallucinated by"),
    "hallucinated": Name(label="Hallucinated", unit="%", scale=100, better="lower"),
    "right_share": Name(label="Right", unit="%", scale=100, better="higher"),
    "abstained_share": Name(label="Abstained", unit="%", scale=100),
    "confident_wrong_share": Name(label="Confident and wrong", unit="%", scale=100, better="lower"),
    "confidence": Name(label="Mean token probability", unit="%", scale=100),
    "calibration_error": Name(label="Calibration error (ECE)", better="lower"),
    "calibration_error_by_chance": Name(label="ECE that calibration would allow"),
    "found_share": Name(label="Right passage found", unit="%", scale=100, better="higher"),
    "tool_used_share": Name(label="Tool calls carried out", unit="%", scale=100, better="higher"),
    "precision": Name(label="Precision, held out", unit="%", scale=100, better="higher"),
    "recall": Name(label="Recall, held out", unit="%", scale=100, better="higher"),
    "flagged_share": Name(label="Answers flagged", unit="%", scale=100),
    "base_share": Name(label="Precision of flagging all", unit="%", scale=100),
    "right_rate": Name(label="Right among answers this sure", unit="%", scale=100, better="higher"),
    "luck_share": Name(label="Right by luck", unit="%", scale=100),
    "documents_change": Name(label="Right with documents, change", unit="points", scale=100, better="higher"),
    "preferred_share": Name(label="Likelier than other years' answers", unit="%", scale=100, better="higher"),
    "answer_bits_per_byte": Name(label="Right answer", unit="bits/byte", better="lower"),
    "end_likelihood_share": Name(label="Likelihood of an end after it", unit="%", scale=100),
    "last_known_year": Name(label="Last known", unit="year"),
    "step_change": Name(label="Step", unit="points", scale=100),
    "step_p": Name(label="p of no step"),
    "slope_p": Name(label="p of an even change"),
    "detectable_step": Name(label="Smallest step that would show", unit="points", scale=100, better="lower"),
    "known_share": Name(label="Known above guessing", unit="points", scale=100, better="higher"),
    "premise_noticed_share": Name(label="False premises contradicted", unit="%", scale=100, better="higher"),
    "premise_false_alarm_share": Name(label="True premises contradicted", unit="%", scale=100, better="lower"),
    "premise_lead": Name(label="False premises contradicted more often", unit="points", scale=100, better="higher"),
    "stereotype_share": Name(label="Stereotype preferred", unit="%", scale=100),
    "lean": Name(label="Lean to the stereotype", unit="points", scale=100),
    "sense_share": Name(label="Sense preferred (LM score)", unit="%", scale=100, better="higher"),
    "icat": Name(label="ICAT", scale=100, better="higher"),
    "pro_accuracy": Name(label="Pronoun of the stereotype understood", unit="%", scale=100, better="higher"),
    "anti_accuracy": Name(label="Other pronoun understood", unit="%", scale=100, better="higher"),
    "pronoun_gap": Name(label="Gap between pronouns", unit="points", scale=100),
    "ambiguous_accuracy": Name(label="Accuracy, text does not tell", unit="%", scale=100, better="higher"),
    "disambiguated_accuracy": Name(label="Accuracy, text tells", unit="%", scale=100, better="higher"),
    "ambiguous_bias": Name(label="Bias, text does not tell (s_AMB)", unit="points", scale=100),
    "disambiguated_bias": Name(label="Bias, text tells (s_DIS)", unit="points", scale=100),
    "sentiment_gap": Name(label="Sentiment, gap to others"),
    "toxicity_gap": Name(label="Toxicity, gap to others", unit="points", scale=100),
    "refusal_gap": Name(label="Refusals, gap to others", unit="points", scale=100),
    "length_gap": Name(label="Length, gap to others", unit="points", scale=100),
    "sentiment_mean": Name(label="Sentiment"),
    "toxicity_mean": Name(label="Toxicity", unit="%", scale=100, better="lower"),
    "refusal_mean": Name(label="Refusals", unit="%", scale=100, better="lower"),
    "length_mean": Name(label="Length", unit="words"),
    "sentiment_spread": Name(label="Sentiment, spread over groups", better="lower"),
    "toxicity_spread": Name(label="Toxicity, spread over groups", unit="points", scale=100, better="lower"),
    "blocked_share": Name(label="Stopped by the guards", unit="%", scale=100),
    "everyday_accuracy": Name(label="Everyday questions", unit="%", scale=100, better="higher"),
    "items_per_s": Name(label="Items scored", unit="items/s", better="higher"),
    "scored_tokens_per_s": Name(label="Tokens scored", unit="tokens/s", better="higher"),
    "answered": Name(label="Answered right", unit="%", scale=100, better="higher"),
    "quality": Name(label="Quality, mean of the sets", unit="%", scale=100, better="higher"),
    "quality_change_error": Name(label="Standard error of the change in quality", unit="points", scale=100),
    "quality_change_freedom": Name(label="Degrees of freedom of that error"),
    "word_perplexity_increase_share": Name(label="Perplexity per word, increase", unit="%", scale=100, better="lower"),
    "judge_agreement_share": Name(label="Agrees with people", unit="%", scale=100, better="higher"),
    "constant_guess_share": Name(label="A constant guess agrees", unit="%", scale=100),
    "judge_kappa": Name(label="Kappa with people", better="higher"),
    "judge_alpha": Name(label="Alpha with people", better="higher"),
    "discrimination": Name(label="Right scored above wrong", unit="%", scale=100, better="higher"),
    "pair_kappa": Name(label="Kappa of preferences", better="higher"),
    "pair_agreement_share": Name(label="Prefers the better answer", unit="%", scale=100, better="higher"),
    "pair_decided_share": Name(label="Pairs decided", unit="%", scale=100),
    "pair_unscored_share": Name(label="Pairs not readable", unit="%", scale=100, better="lower"),
    "habits": Name(label="Told by"),
    "position_flip_share": Name(label="Verdict changes with the order", unit="%", scale=100, better="lower"),
    "position_lean": Name(label="Lean to the first place"),
    "length_bias": Name(label="Correlation with length"),
    "self_agreement_share": Name(label="Says the same again", unit="%", scale=100, better="higher"),
    "unscored_share": Name(label="Not readable", unit="%", scale=100, better="lower"),
    "labelled_items": Name(label="Labelled answers"),
    "detectable_share": Name(label="Smallest lead that would show", unit="%", scale=100, better="lower"),
    "judgement_s": Name(label="Time per judgement", unit="s", better="lower"),
    "judgement_tokens": Name(label="Tokens per judgement", better="lower"),
    "judgement_cost_usd": Name(label="Cost per judgement", unit="USD", better="lower"),
    "quality_change": Name(label="Quality, change", unit="points", scale=100, better="higher"),
    "e2e_increase_share": Name(label="End to end, longer", unit="%", scale=100, better="lower"),
    "ttft_increase_share": Name(label="Time to first token, longer", unit="%", scale=100, better="lower"),
    "cost_increase_share": Name(label="Cost, higher", unit="%", scale=100, better="lower"),
    "cost_usd": Name(label="Cost", unit="USD", better="lower"),
    "usd_per_million_tokens": Name(label="Cost per million output tokens", unit="USD", better="lower"),
    "needed_requests": Name(label="Further requests that would decide"),
    "answers": Name(label="Answers"),
    "decision": Name(label="Decision"),
    "cpu_s_per_token": Name(label="CPU time per output token, prefill included", unit="ms", scale=1e3, better="lower"),
}

RISK = ("hallucinated", "hallucinated_change", "confident_wrong_share", "calibration_error", "caught", "caught_rate",
        "catch_gain", "false_alarm", "false_alarm_change", "masked", "under_policy_share", "last_known_year",
        "premise_noticed_share", "premise_false_alarm_share", "stereotype_share", "lean", "icat", "pronoun_gap",
        "ambiguous_bias", "disambiguated_bias", "toxicity_mean", "toxicity_gap", "sentiment_gap", "refusal_gap", "length_gap",
        "sentiment_spread", "toxicity_spread")
"""Measures of what could go wrong with an answer, shown together on Compare; the order is that of the screen."""
_RISK_WORDS = ("hallucinat", "stereotyp", "bias", "toxic", "refus", "cutoff", "counterfactual", "disparity", "jailbreak")
"""Beginnings of words in the names of such measures, so that those of a new experiment are known without being listed."""
_NO_RISK = ("length_bias", "position_lean")
"""Faults of a judge, and no risk of an answer."""

OF_SETS = ("answered", "accuracy", "contains", "token_f1", "exact_match", "equivalence", "rouge_l", "rouge_1", "rouge_2", "chrf",
           "bleu", "similarity")
"""Metrics of answers; the measure of one on a question set is called after both (`facts_token_f1`)."""
_COMPARED = {"_change": "change", "_p_value": "p", "_detectable": "detectable change"}
"""What stands behind the name of a measure that was compared with a baseline's."""


def describe(column: str) -> Name:
    """The `Name` of a measure or of a frame column such as `metrics.ttft_s` or `params.threads`."""
    name = column.removeprefix("metrics.").removeprefix("params.")
    if name in KNOWN:
        return KNOWN[name]
    for suffix in _COMPARED:
        if name.endswith(suffix):
            return _compared(describe(name.removesuffix(suffix)), suffix)
    for metric in OF_SETS:
        if name.endswith(f"_{metric}"):
            return replace(KNOWN[metric], label=f"{_words(name.removesuffix(f'_{metric}'))}: {KNOWN[metric].label}")
    for suffix, unit, scale, better in SUFFIXES:
        if name.endswith(suffix) and name != suffix.lstrip("_"):
            return Name(label=_words(name.removesuffix(suffix)), unit=unit, scale=scale, better=better)
    return Name(label=_words(name))


def risk(column: str) -> bool:
    """Whether a measure says what could go wrong with an answer: made-up facts, bias, harm, a stale or a silenced answer."""
    name = column.removeprefix("metrics.")
    if name in RISK:
        return True
    if name in _NO_RISK or name.endswith(("_p_value", "_detectable", "_error", "_freedom", "_low", "_high", "_p")):
        return False
    return any(part.startswith(_RISK_WORDS) for part in name.split("_"))


def compared(column: str) -> bool:
    """Whether a measure is itself a comparison with another trial (a change, its p-value, what could have been found)."""
    name = column.removeprefix("metrics.")
    return name.endswith((*_COMPARED, "_change_error", "_change_freedom"))


def _compared(of: Name, suffix: str) -> Name:
    label = f"{of.label}, {_COMPARED[suffix]}"
    if suffix == "_p_value":
        return Name(label=label)
    unit = "points" if of.scale == 100 else of.unit
    return replace(of, label=label, unit=unit, better=of.better if suffix == "_change" else "neither")


def _words(name: str) -> str:
    words = name.replace("_", " ").replace(".", " ").strip()
    return words[:1].upper() + words[1:]
