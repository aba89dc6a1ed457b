"""Holds an answer to a JSON Schema: which tokens may come next, by llama.cpp's grammar over the whole vocabulary."""

from __future__ import annotations

import ctypes
import functools
import json
from typing import Any

import llama_cpp as C
import numpy as np
from llama_cpp.llama_grammar import BuiltinRule, SchemaConverter
from numpy.typing import NDArray

from lab.engines import _schemas
from lab.engines.llama.weights import Weights, last_message
from lab.errors import LabError
from lab.records import Decoding

_CHARACTER = BuiltinRule(r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])')
"""A character of a JSON string. The converter's own rule lets line breaks through, which JSON wants escaped."""
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def refuse(decoding: Decoding) -> None:
    """Raise `LabError` for a schema that no grammar can be made of."""
    if decoding.json_schema:
        gbnf(decoding)


def gbnf(decoding: Decoding) -> str:
    """The schema of `decoding` in llama.cpp's grammar language. Raises `LabError` for one that it cannot say."""
    return _gbnf(json.dumps(_schemas.read(decoding)))


@functools.lru_cache(maxsize=64)
def _gbnf(schema: str) -> str:
    untyped: Any = _Converter
    converter = untyped(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    try:
        converter.visit(converter.resolve_refs(json.loads(schema), ""), "")
        return str(converter.format_grammar())
    except Exception as error:  # the converter asserts, indexes and recurses
        said = (str(error).splitlines() or [""])[0][:120].rstrip(".")
        raise LabError(f"No grammar can be made of the schema ({said or type(error).__name__}); use a simpler one.") from error


class _Converter(SchemaConverter):
    def _add_primitive(self, name: str, rule: BuiltinRule) -> str:
        return str(super()._add_primitive(name, _CHARACTER if name == "char" else rule))


class Grammar:
    """Where one answer stands in its schema. `accept` every token that was taken; free with `close`.

    llama.cpp ends the process when a token is accepted that the grammar does not allow: only `accept` what `allows` or
    `masked` let through. Once the answer is whole, the end tokens alone are allowed.
    """

    def __init__(self, weights: Weights, decoding: Decoding) -> None:
        rules = gbnf(decoding)
        self._vocabulary = weights.vocabulary
        self._sampler = C.llama_sampler_init_grammar(weights.vocab, rules.encode(), b"root")
        if not self._sampler:
            raise LabError(f"llama.cpp does not take the grammar of this schema ({last_message()}); use a simpler one.")
        self._one = np.zeros(1, _CANDIDATE)
        self._all: NDArray[np.void] | None = None

    def allows(self, token: int) -> bool:
        """Whether `token` may come next. Costs microseconds, where asking for all tokens costs milliseconds."""
        self._one[0] = (token, 0.0, 0.0)
        self._apply(self._one)
        return bool(np.isfinite(self._one["logit"][0]))

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of a row of logits in which every token that may not come next is at minus infinity."""
        if self._all is None:
            self._all = np.zeros(self._vocabulary, _CANDIDATE)
        self._all["id"], self._all["logit"] = np.arange(self._vocabulary), logits
        self._apply(self._all)
        logits = np.array(self._all["logit"])
        if not np.isfinite(logits).any():
            raise LabError("No token of this model continues an answer of the schema; use a simpler one.")
        return logits

    def accept(self, token: int) -> None:
        C.llama_sampler_accept(self._sampler, token)

    def _apply(self, candidates: NDArray[np.void]) -> None:
        data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
        C.llama_sampler_apply(self._sampler, ctypes.byref(array))

    def close(self) -> None:
        if self._sampler is not None:
            C.llama_sampler_free(self._sampler)
            self._sampler = None
