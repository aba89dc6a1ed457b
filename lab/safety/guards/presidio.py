"""Personal data as Microsoft's presidio finds it: names and places too, for a price in time; an optional package."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from lab.errors import LabError
from lab.safety.decisions import Finding, Guard, Scan

KINDS = ("PERSON", "LOCATION", "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "US_SSN", "IP_ADDRESS")


def guard(kinds: Sequence[str] = KINDS, threshold: float = 0.5, language: str = "en", model: str = "en_core_web_sm") -> Guard:
    """Entities of these kinds, in presidio's names, found by the spaCy `model`. It needs the whole text."""
    return _Presidio(tuple(kinds), threshold, language, _analyzer(language, model))


class _Presidio:
    def __init__(self, kinds: Sequence[str], threshold: float, language: str, analyzer: Any) -> None:
        self._kinds, self._threshold, self._language, self._analyzer = kinds, threshold, language, analyzer

    def scan(self, text: str, start: int, ended: bool) -> Scan:
        if not ended:
            return Scan(certain=start)
        found = self._analyzer.analyze(text=text[start:], entities=list(self._kinds), language=self._language,
                                       score_threshold=self._threshold)
        findings: list[Finding] = []
        for one in sorted(found, key=lambda f: (f.start, -f.end)):
            if not findings or one.start + start >= findings[-1].end:
                findings.append(Finding(start=one.start + start, end=one.end + start, category=one.entity_type.lower(),
                                        detail=f"score {one.score:.2f}"))
        return Scan(findings=tuple(findings), certain=len(text))


@functools.cache
def _analyzer(language: str, model: str) -> Any:
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError as error:
        raise LabError("The guard 'presidio' needs the packages presidio-analyzer and a spaCy model; install them, or use the "
                       "guard 'personal', which needs neither.") from error
    provider = NlpEngineProvider(nlp_configuration={
        "nlp_engine_name": "spacy", "models": [{"lang_code": language, "model_name": model}]})
    return AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=[language])
