"""Our judge inside MLflow: as a scorer of `mlflow.genai.evaluate`, and its scores as feedback on the traces of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import LabError
from lab.metrics.judge import Judge
from lab.ops import feedback
from lab.ops.feedback import Feedback
from lab.records import Generation, Score

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

PREFERENCE = "preference"
UNMEASURED = "How far this judge agrees with people was not measured; `lab run judging` does."
_QUESTION = ("question", "query", "prompt", "input", "messages")


def scorer(judge: Judge, *, trust: str = "") -> Scorer:
    """`judge` as a scorer: a feedback for each of its axes, from `inputs` (a question), `outputs` and `expectations`.

    `trust` (the sentence of `lab.metrics.judging.trust`) goes into every feedback. Right answers are read from the
    expectation `references`, `expected_response` or `expected_answer`.
    """
    from mlflow.entities import AssessmentError, AssessmentSource
    from mlflow.entities import Feedback as Assessment
    from mlflow.genai.scorers import scorer as decorated

    def grade(inputs: Any, outputs: Any, expectations: Any = None) -> list[Any]:
        question, context = _question(inputs)
        scores = judge.grade(question, _text(outputs), _references(expectations or {}), context)
        source = AssessmentSource(source_type="LLM_JUDGE", source_id=judge.name)
        return [Assessment(
            name=score.name, value=score.value if score.scored else None, rationale=score.why or None, source=source,
            error=None if score.scored else AssessmentError(error_code="UNSCORED", error_message=score.why or "no reason given"),
            metadata=_details(judge.rubric, trust)) for score in scores]

    return decorated(grade, name=f"judge_{judge.axes[0].name}" if len(judge.axes) == 1 else "judge")


def log(
    run_id: str, generations: Mapping[str, Generation], scores: Sequence[Score], *, rubric: str, trust: str = ""
) -> list[Feedback]:
    """Store a judge's scores as feedback on the traces of a run's generations (by item, see `feedback.items`).

    Unscored ones are stored with their reason; storing twice is storing once. Raises `LabError` for a score of an item that
    is not among the generations.
    """
    if unknown := [score.item for score in scores if score.item not in generations]:
        raise LabError(f"There is no answer '{unknown[0]}' in this run; give scores of its own items.")
    ids = feedback.put_traces(run_id, {score.item: generations[score.item] for score in scores})
    given = [Feedback(trace_id=ids[score.item], name=score.name, value=score.value if score.scored else None, by=score.by,
                      kind="judge", why=score.why, about=f"rubric {rubric}", details=_details(rubric, trust)) for score in scores]
    feedback.give(given)
    return given


def log_pairs(
    run_id: str, generations: Mapping[str, Generation], other_run_id: str, others: Mapping[str, Generation],
    scores: Sequence[Score], *, rubric: str, trust: str = "",
) -> list[Feedback]:
    """Store a judge's preferences between two runs' answers to the same items: 1 for the first run's, 0.5 a tie, 0.

    Each is stored on the traces of both answers, mirrored, so that it is found from whichever side one comes.
    """
    ids = feedback.put_traces(run_id, {score.item: generations[score.item] for score in scores})
    theirs = feedback.put_traces(other_run_id, {score.item: others[score.item] for score in scores})
    given = []
    for score in scores:
        for here, there, value in ((ids, theirs, score.value), (theirs, ids, 1 - score.value)):
            other = there[score.item]
            given.append(Feedback(
                trace_id=here[score.item], name=PREFERENCE, value=value if score.scored else None, by=score.by, kind="judge",
                why=score.why, about=f"rubric {rubric}, against {other}",
                details={**_details(rubric, trust), "lab.other_trace": other}))
    feedback.give(given)
    return given


def _details(rubric: str, trust: str) -> dict[str, str]:
    return {"lab.rubric": rubric, "lab.trust": trust or UNMEASURED}


def _question(inputs: Any) -> tuple[str, str]:
    """The question in a scorer's inputs, and its context."""
    if isinstance(inputs, Mapping):
        found = next((inputs[name] for name in _QUESTION if inputs.get(name)), None)
        if found is None:
            raise LabError(f"The judge finds no question in the inputs; name it one of {', '.join(_QUESTION)}.")
        return _text(found), _text(inputs.get("context") or "")
    return _text(inputs), ""


def _text(given: Any) -> str:
    """A text, the last of a list of messages, or what a record calls its content."""
    if isinstance(given, str):
        return given
    if isinstance(given, Sequence) and given:
        return _text(given[-1])
    if isinstance(given, Mapping):
        return _text(next((given[name] for name in ("content", "text", "answer", "response") if given.get(name)), str(given)))
    return str(given)


def _references(expectations: Mapping[str, Any]) -> tuple[str, ...]:
    found = next((expectations[name] for name in ("references", "expected_response", "expected_answer")
                  if expectations.get(name)), ())
    return (found,) if isinstance(found, str) else tuple(map(str, found))
