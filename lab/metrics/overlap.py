"""How many words, or pieces of them, an answer shares with its references: exact match, F1, BLEU, chrF and ROUGE.

Every value is from 0 to 1 (sacrebleu's own figures are 100 times as large). Words are compared as SQuAD does (Rajpurkar et
al. 2016): lower case, without punctuation and articles; here a text of nothing but articles keeps them, and punctuation of
any script goes. Several references: the best counts, except in BLEU, which takes n-grams from all of them (Papineni et al.
2002). chrF is Popović's (2015) with beta 2; ROUGE is Lin's (2004), F-measure, with Porter's stemmer.

None of them knows what a sentence says: "not" costs one word, and so does the wrong year.
"""

from __future__ import annotations

import collections
import functools
import importlib.metadata
import math
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lab import __version__
from lab.errors import LabError
from lab.metrics import Scorer
from lab.metrics.references import Pair, pairs, scored
from lab.records import Generation, Question, Score

ARTICLES = frozenset({"a", "an", "the"})
_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def words(text: str) -> list[str]:
    """The words that are compared: lower case, no punctuation, and no articles unless there is nothing else."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    return [word for word in bare.split() if word not in ARTICLES] or bare.split()


def within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Whether the words `inner` stand in `outer` one after the other; no words stand nowhere."""
    return bool(inner) and any(list(outer[i : i + len(inner)]) == list(inner) for i in range(len(outer) - len(inner) + 1))


def f1(said: Sequence[str], right: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of words, each counted as often as both have it."""
    common = (collections.Counter(said) & collections.Counter(right)).total()
    return 2 * common / (len(said) + len(right)) if common else 0.0


def exact_match(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """1 where the answer is a reference word for word (case, punctuation and articles aside), else 0."""
    return _best("exact_match", lambda said, right: float(said == right and bool(said)), questions, generations)


def contains(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """1 where a reference stands in the answer as whole words, else 0."""
    return _best("contains", lambda said, right: float(within(right, said)), questions, generations)


def token_f1(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """F1 of the words that the answer shares with its nearest reference (SQuAD)."""
    return _best("token_f1", f1, questions, generations)


def bleu(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """Sentence BLEU of sacrebleu with effective order, 0 to 1."""
    return _by_sacrebleu("bleu", questions, generations)


def chrf(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """Sentence chrF2 of sacrebleu: F-score of character n-grams up to 6, 0 to 1."""
    return _by_sacrebleu("chrf", questions, generations)


def rouge_1(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """ROUGE-1: F-measure of shared stemmed words, from rouge-score."""
    return _by_rouge("rouge_1", questions, generations)


def rouge_2(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """ROUGE-2: F-measure of shared pairs of stemmed words, from rouge-score."""
    return _by_rouge("rouge_2", questions, generations)


def rouge_l(questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    """ROUGE-L: F-measure of the longest common subsequence of stemmed words, from rouge-score."""
    return _by_rouge("rouge_l", questions, generations)


SCORERS: dict[str, Scorer] = {"exact_match": exact_match, "contains": contains, "token_f1": token_f1, "bleu": bleu,
                              "chrf": chrf, "rouge_1": rouge_1, "rouge_2": rouge_2, "rouge_l": rouge_l}


def corpus(
    name: Literal["bleu", "chrf"], questions: Sequence[Question], generations: Sequence[Generation]
) -> tuple[float, str]:
    """BLEU or chrF of all answers together, 0 to 1, with sacrebleu's signature: what papers report. It is no mean of items.

    Answers that cannot be scored (failed, or without references) are left out; NaN and "" when none is left.
    """
    if name not in ("bleu", "chrf"):
        raise LabError(f"Only bleu and chrf have a figure for a whole corpus, not '{name}'; take the mean of its scores.")
    found = [pair for pair in pairs(questions, generations) if isinstance(pair, Pair)]
    if not found:
        return math.nan, ""
    metric, most = _sacrebleu(name, corpus=True), max(len(p.references) for p in found)
    columns = [[p.references[i] if i < len(p.references) else None for p in found] for i in range(most)]
    value = metric.corpus_score([p.text for p in found], columns).score
    return min(1.0, value / 100), str(metric.get_signature())


def signature(name: str) -> str:
    """What a run records so that the figures of `name` can be had again: the package, its version and its options."""
    if name not in SCORERS:
        raise LabError(f"There is no overlap metric '{name}'; they are {', '.join(SCORERS)}.")
    if name in ("bleu", "chrf"):
        metric = _sacrebleu(name)
        metric.sentence_score("a", ["a"])  # sacrebleu gives no signature before the first score
        return "|".join(part for part in str(metric.get_signature()).split("|") if not part.startswith("nrefs:"))
    if name in _ROUGE:
        return f"{_ROUGE[name]}|fmeasure|stem:porter|refs:best|rouge-score:{importlib.metadata.version('rouge-score')}"
    return f"{name}|words:squad|refs:best|lab:{__version__}"


def _best(
    name: str, alike: Callable[[Sequence[str], Sequence[str]], float], questions: Sequence[Question],
    generations: Sequence[Generation],
) -> list[Score]:
    return scored(name, "words", questions, generations,
                  lambda found: [max(alike(words(p.text), words(r)) for r in p.references) for p in found])


@functools.cache
def _sacrebleu(name: str, corpus: bool = False) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return CHRF() if name == "chrf" else BLEU(effective_order=not corpus)


def _by_sacrebleu(name: str, questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    metric = _sacrebleu(name)
    return scored(name, "sacrebleu", questions, generations,
                  lambda found: [min(1.0, metric.sentence_score(p.text, list(p.references)).score / 100) for p in found])


def _by_rouge(name: str, questions: Sequence[Question], generations: Sequence[Generation]) -> list[Score]:
    from rouge_score.rouge_scorer import RougeScorer

    kind = _ROUGE[name]
    scorer = RougeScorer([kind], use_stemmer=True)

    def value(pair: Pair) -> float:
        # The package calls a text without a-z and 0-9 worth 0 even beside itself; that is not measured.
        readable = [r for r in pair.references if any(c in string.ascii_lowercase + string.digits for c in r.lower())]
        return scorer.score_multi(readable, pair.text)[kind].fmeasure if readable else math.nan

    return scored(name, "rouge-score", questions, generations, lambda found: [value(p) for p in found])
