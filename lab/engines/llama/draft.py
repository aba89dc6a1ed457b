"""Opens a model that drafts for another: a smaller one with the same vocabulary, or the target with layers left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import llama_cpp as C
import numpy as np

from lab import models
from lab.engines.llama.quantize import layers_of, pruned
from lab.engines.llama.weights import Weights
from lab.errors import LabError


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What two models must share for one to draft for the other: every token's text, and which tokens are special."""

    name: str
    texts: Sequence[bytes]
    special: Mapping[str, int]
    """By role: the begin token that is added (-1: none), and the end token."""


def vocabulary(weights: Weights) -> Vocabulary:
    """The vocabulary of a loaded model (0.1 s for 150,000 tokens)."""
    text, vocab = C.llama_vocab_get_text, weights.vocab
    return Vocabulary(name=weights.path.stem, texts=[text(vocab, i) for i in range(weights.vocabulary)],
                      special={"begin": weights.bos if weights.adds_bos else -1, "end": weights.eos})


def refuse_other_vocabulary(target: Vocabulary, draft: Vocabulary) -> None:
    """Raise `LabError` unless token numbers mean the same to both: a draft is a list of numbers."""
    why = ""
    if len(target.texts) != len(draft.texts):
        why = f"it has {len(draft.texts):,} tokens where the target has {len(target.texts):,}"
    elif (first := next((i for i, (a, b) in enumerate(zip(target.texts, draft.texts, strict=True)) if a != b), -1)) >= 0:
        mine, other = (v.texts[first].decode("utf-8", "replace") for v in (draft, target))
        why = f"its token {first} is {mine!r} where the target's is {other!r}"
    elif wrong := [role for role in target.special if target.special[role] != draft.special.get(role)]:
        why = f"its {wrong[0]} token is {draft.special.get(wrong[0])} where the target's is {target.special[wrong[0]]}"
    if why:
        raise LabError(f"{draft.name} cannot draft for {target.name}: {why}; choose a draft model of the same family.")


def open_draft(file: models.ModelFile, target: Weights) -> Weights:
    """The weights of a draft model for `target`. Raises `LabError` when their vocabularies differ."""
    weights = Weights(file.path)
    try:
        refuse_other_vocabulary(vocabulary(target), vocabulary(weights))
    except LabError:
        weights.close()
        raise
    return weights


def self_draft(file: models.ModelFile, keep: int) -> models.ModelFile:
    """`file` reduced to `keep` of its layers, to draft for itself: the first and the last, and evenly spread ones between.

    Layer skipping without training (Draft & Verify, Zhang et al. 2023, chooses the layers by search; here they are even).
    """
    total = layers_of(file)
    if not 2 <= keep < total:
        raise LabError(f"{file.name} has {total} layers; a self-draft keeps from 2 to {total - 1} of them, not {keep}.")
    kept = {round(float(x)) for x in np.linspace(0, total - 1, keep)}
    return pruned(file, [i for i in range(total) if i not in kept])
