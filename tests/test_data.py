"""The catalogue of question sets and texts: what ships is sound, own files are read faithfully, bad ones say why."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lab
from lab.data import Labelled, QuestionSet, catalogue, labelled, questions, rows, subset, text, text_names, text_source
from lab.data.own import SUMMARISE
from lab.data.views import lettered
from lab.errors import LabError
from lab.records import Question

GOOD = {"id": "a", "question": "Is water wet?", "choices": ["yes", "no"], "answer": 0, "topic": "water"}


def jsonl(folder: Path, *rows: object) -> Path:
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def everyday() -> list[Question]:
    return questions("everyday")


def typed(entry: QuestionSet) -> list[object]:
    """The items of a set by the reader of its kind."""
    read = {"labelled": labelled, "rows": rows}.get(entry.kind, questions)
    return list(read(entry.name))


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda e: e.name)
def test_every_set_says_whose_it_is_and_holds_what_its_entry_says(entry: QuestionSet) -> None:
    assert entry.licence and entry.source and entry.description and entry.answer_by and len(entry.sha256) == 64
    if not entry.fetched:
        with pytest.raises(LabError, match=f"'{entry.name}' is not here yet; run `lab data fetch {entry.name}`"):
            typed(entry)
        pytest.skip(f"{entry.name} was not fetched on this machine")
    entry.check()
    found = typed(entry)
    assert len(found) == entry.size
    if entry.kind == "rows":
        return
    ids = [item.item if isinstance(item, Labelled) else item.id for item in found]  # type: ignore[attr-defined]
    assert len(set(ids)) == len(ids)
    assert all(item.question and (not isinstance(item, Labelled) or item.answer) for item in found)  # type: ignore[attr-defined]
    if entry.kind == "labelled":
        assert {0.0, 1.0} <= {item.label for item in found} and all(0 <= item.label <= 1 for item in found)  # type: ignore[attr-defined]
        assert {item.axis for item in found} == set(entry.topics)  # type: ignore[attr-defined]
        return
    assert {q.topic for q in found if isinstance(q, Question)} == set(entry.topics or [""])
    for q in found:
        assert isinstance(q, Question)
        if entry.kind == "choice":
            assert q.answer in range(len(q.choices)) and len(set(q.choices)) == len(q.choices) and "" not in q.choices, q
        else:
            assert q.references and "" not in q.references and not q.choices, q
        assert (entry.kind != "summary") or q.context


@pytest.mark.parametrize(("name", "key"), [("mmlu", "answer"), ("commonsense_qa", "answer"), ("openbook_qa", "answer")])
def test_the_right_choice_is_the_one_its_source_names_by_letter_and_text(name: str, key: str) -> None:
    if not catalogue()[name].fetched:
        pytest.skip(f"{name} was not fetched on this machine")
    raw = rows(name)
    for q in questions(name):
        row = raw[int(q.id.rsplit("-", 1)[1]) - 1]
        assert "ABCDE"[q.answer or 0] == row[key].strip()[0]
        assert " ".join(row[key].split()).startswith(f"{'ABCDE'[q.answer or 0]}. {' '.join(q.choices[q.answer or 0].split())}"[:60])


def test_yes_and_no_are_what_the_source_calls_true_and_false() -> None:
    if not catalogue()["boolq"].fetched:
        pytest.skip("boolq was not fetched on this machine")
    assert [q.choices[q.answer or 0] for q in questions("boolq")] == [
        {"True": "yes", "False": "no"}[str(row["answer"])] for row in rows("boolq")]


def test_only_a_line_that_begins_with_the_letter_due_begins_a_choice() -> None:
    assert lettered("A. one\nB. two\nI. and\nC. three") == ("one", "two\nI. and", "three")
    assert lettered("\nA. $1\nB. A. Milne") == ("$1", "A. Milne")
    assert lettered("C. three", start="C") == ("three",)


def test_every_short_answer_question_has_references_that_differ_and_none_gives_itself_away() -> None:
    for q in questions("facts"):
        assert len({r.lower() for r in q.references}) == len(q.references) <= 4, q
        if not any(r.isdigit() for r in q.references):
            assert all(r.lower() not in q.question.lower().split() for r in q.references), q
    assert set(Counter(q.topic for q in questions("facts")).values()) == {13}


def test_notes_are_short_passages_with_much_shorter_summaries() -> None:
    for q in questions("notes"):
        words, summary = len(q.context.split()), len(q.references[0].split())
        assert 60 <= words <= 120 and 12 <= summary <= words / 2, q


def test_verdicts_hold_what_overlap_cannot_see() -> None:
    def shared(item: Labelled) -> float:
        said = set(re.findall(r"\w+", item.answer.lower()))
        return max(len(said & set(re.findall(r"\w+", r.lower()))) / len(said) for r in item.references)

    kinds = {kind: [i for i in labelled("verdicts") if f"-{kind}-" in i.item] for kind in ("reworded", "twisted", "plain", "wrong")}
    assert all(i.label == (kind in ("reworded", "plain")) for kind, found in kinds.items() for i in found)
    assert all(len(found) >= 14 for found in kinds.values())
    assert max(shared(i) for i in kinds["reworded"]) < 0.5 < min(shared(i) for i in kinds["twisted"])


def test_the_shipped_set_has_the_size_and_topics_its_catalogue_entry_says(everyday: list[Question]) -> None:
    entry = catalogue()["everyday"]
    assert len(everyday) == entry.size
    assert tuple(sorted({q.topic for q in everyday})) == entry.topics
    assert entry.licence and entry.source and entry.name == "everyday"


def test_every_shipped_item_is_its_own_question_with_four_short_different_choices(everyday: list[Question]) -> None:
    assert len({q.id for q in everyday}) == len({q.question.lower() for q in everyday}) == len(everyday)
    for q in everyday:
        assert len({c.lower() for c in q.choices}) == 4, q
        assert all(1 <= len(c.split()) <= 4 for c in q.choices), q


def test_neither_place_nor_topic_nor_length_gives_the_shipped_answers_away(everyday: list[Question]) -> None:
    assert set(Counter(q.answer for q in everyday).values()) == {40}
    assert set(Counter((q.topic, q.answer) for q in everyday).values()) == {4}
    right = [len(q.choices[q.answer or 0]) for q in everyday]
    wrong = [len(c) for q in everyday for i, c in enumerate(q.choices) if i != q.answer]
    assert abs(sum(right) / len(right) - sum(wrong) / len(wrong)) < 0.5


def test_a_set_changed_by_one_byte_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(Path(lab.__file__).parent, tmp_path / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "lab" / "data" / "everyday.jsonl"
    file.write_bytes(file.read_bytes().replace(b"Tokyo", b"Kokyo", 1))
    code = "import lab.data\ntry: lab.data.questions('everyday')\nexcept lab.data.LabError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert re.search("'everyday' was changed: .*; restore the file", done.stdout)
    with pytest.raises(LabError, match="'everyday' was changed"):
        dataclasses.replace(catalogue()["everyday"], path=file).check()
    catalogue()["everyday"].check()


def test_the_three_formats_give_the_same_questions(tmp_path: Path, everyday: list[Question]) -> None:
    rows = [{"id": q.id, "question": q.question, "choices": list(q.choices), "answer": q.answer, "topic": q.topic}
            for q in everyday]
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "my.parquet")
    frame.assign(choices=frame.choices.map(json.dumps)).to_csv(tmp_path / "my.csv", index=False)
    assert questions(jsonl(tmp_path, *rows)) == everyday
    assert questions(tmp_path / "my.parquet") == everyday
    assert questions(tmp_path / "my.csv") == everyday


def test_texts_that_look_like_dates_numbers_or_nothing_stay_as_written(tmp_path: Path) -> None:
    row = {"id": "007", "question": "None", "choices": ["1945-05-08", "1918-11-11"], "answer": 0, "topic": "NA"}
    pd.DataFrame([{**row, "choices": json.dumps(row["choices"])}]).to_csv(tmp_path / "my.csv", index=False)
    expected = [Question(id="007", question="None", choices=("1945-05-08", "1918-11-11"), answer=0, topic="NA")]
    assert questions(jsonl(tmp_path, row)) == expected
    assert questions(tmp_path / "my.csv") == expected


def test_id_and_topic_are_optional_and_other_columns_are_ignored(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"question": "Q", "choices": [1, 2], "answer": 1, "author": "me"})
    assert questions(path) == [Question(id="row-1", question="Q", choices=("1", "2"), answer=1)]


def test_open_questions_take_one_reference_or_a_list_in_every_format(tmp_path: Path) -> None:
    expected = [Question(id="row-1", question="Q?", references=("a", "b"), date="2024-10-28", group="g", context="c"),
                Question(id="row-2", question="R?", references=("007",), date="2024-10-28", group="g", context="c")]
    given = [{"question": q.question, "references": list(q.references), "date": q.date, "group": "g", "context": "c"} for q in expected]
    assert questions(jsonl(tmp_path, *given)) == expected
    pd.DataFrame(given).to_parquet(tmp_path / "my.parquet")
    assert questions(tmp_path / "my.parquet") == expected
    pd.DataFrame([{**given[0], "references": '["a", "b"]'}, {**given[1], "references": "007"}]).to_csv(tmp_path / "my.csv", index=False)
    assert questions(tmp_path / "my.csv") == expected


def test_a_text_with_a_summary_and_no_question_is_to_be_summarised(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"document": "Long.", "summary": "Short."})
    assert questions(path, columns={"context": "document", "references": "summary"}) == [
        Question(id="row-1", question=SUMMARISE, context="Long.", references=("Short.",))]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_columns_of_ones_own_names_are_mapped(tmp_path: Path, suffix: str) -> None:
    row = {"prompt": "Q?", "gold": "0042", "nr": "x1"}
    if suffix == "jsonl":
        jsonl(tmp_path, row)
    elif suffix == "csv":
        pd.DataFrame([row]).to_csv(tmp_path / "my.csv", index=False)
    else:
        pd.DataFrame([row]).to_parquet(tmp_path / "my.parquet")
    found = questions(tmp_path / f"my.{suffix}", columns={"question": "prompt", "references": "gold", "id": "nr"})
    assert found == [Question(id="x1", question="Q?", references=("0042",))]


@pytest.mark.parametrize(("columns", "says"), [
    ({"question": "query"}, "'my.jsonl' has no column 'query'; it has id, question, choices"),
    ({"prompt": "question"}, "'prompt' is no column of ours to be mapped; those are question, choices"),
])
def test_a_mapping_that_does_not_fit_is_one_sentence(tmp_path: Path, columns: dict[str, str], says: str) -> None:
    with pytest.raises(LabError, match=says) as error:
        questions(jsonl(tmp_path, {**GOOD, "topic": "a"}), columns=columns)
    assert_one_sentence(error.value)


@pytest.mark.parametrize(("row", "says"), [
    ({"question": "Q", "references": []}, "Row 2 of 'my.jsonl' has no right answer .* column references"),
    ({"question": "Q", "references": ["a", ""]}, "Row 2 .* empty text among its references; remove it"),
    ({"question": "", "references": ["a"]}, "Row 2 .* no question; fill"),
])
def test_an_open_question_without_a_right_answer_is_named(tmp_path: Path, row: dict[str, object], says: str) -> None:
    with pytest.raises(LabError, match=says) as error:
        questions(jsonl(tmp_path, {"question": "P", "references": ["a"]}, row))
    assert_one_sentence(error.value)


def test_missing_columns_are_named_with_a_mapping_to_try(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="columns prompt, choices, answer but needs .* rename question, or map your own, like question=prompt "):
        questions(jsonl(tmp_path, {"prompt": "Q", "choices": ["a", "b"], "answer": 0}))


def test_a_set_of_another_kind_names_its_own_reader() -> None:
    with pytest.raises(LabError, match=r"'verdicts' is of kind labelled.*read it with data.labelled\('verdicts'\)"):
        questions("verdicts")
    with pytest.raises(LabError, match=r"'advbench' is of kind rows.*read it with data.rows\('advbench'\)"):
        questions("advbench")
    with pytest.raises(LabError, match="'facts' holds no judged answers .*; the sets that do are verdicts, .*nq_open_judged"):
        labelled("facts")
    with pytest.raises(LabError, match="no question set 'nosuch'; the names are everyday"):
        rows("nosuch")


def test_labelled_answers_of_ones_own_are_read_with_their_raters(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"q": "Q?", "answer": "a", "label": True, "raters": [1, 0.5], "by": "me"},
                 {"q": "Q?", "answer": "", "label": 0.25, "raters": None, "by": None})
    assert labelled(path, columns={"question": "q"}) == [
        Labelled(item="row-1", question="Q?", answer="a", label=1.0, raters=(1.0, 0.5), group="Q?", by="me"),
        Labelled(item="row-2", question="Q?", answer="", label=0.25, group="Q?")]
    csv = tmp_path / "my.csv"
    csv.write_text("question,answer,label\nQ?,007,true\nQ?,b,0.5\n")
    assert [(i.answer, i.label) for i in labelled(csv)] == [("007", 1.0), ("b", 0.5)]


@pytest.mark.parametrize(("change", "says"), [
    ({"label": "maybe"}, "Row 1 of 'my.jsonl' has the label 'maybe'; give a number from 0"),
    ({"label": 2}, "Row 1 .* label 2; give"), ({"label": None}, "Row 1 .* label None; give"),
    ({"raters": [3]}, r"Row 1 .* raters \[3\]; give"), ({"question": ""}, "Row 1 .* no question"),
])
def test_a_bad_labelled_row_is_named(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(LabError, match=says) as error:
        labelled(jsonl(tmp_path, {"question": "Q", "answer": "a", "label": 1, **change}))
    assert_one_sentence(error.value)


def test_a_limit_draws_labelled_answers_reproducibly_and_the_smaller_begins_the_larger() -> None:
    picked = labelled("verdicts", limit=20, seed=1)
    assert picked == labelled("verdicts", limit=40, seed=1)[:20] != labelled("verdicts", limit=20, seed=2)
    with pytest.raises(LabError, match="leaves no answers"):
        labelled("verdicts", limit=0)


def test_a_folder_laid_out_like_a_hub_set_is_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "my set"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"prompt": f"{split}?", "references": ["yes"]}) + "\n")
    mapping = {"question": "prompt"}
    assert questions(f"hub:{folder}", columns=mapping)[0].question == "test?"
    assert questions(f"hub:{folder}:train", columns=mapping)[0].question == "train?"
    with pytest.raises(LabError, match="has no split 'dev'; it has"):
        questions(f"hub:{folder}:dev", columns=mapping)
    with pytest.raises(LabError, match="columns prompt, references but needs question"):
        questions(f"hub:{folder}")


@pytest.mark.parametrize(("name", "says"), [
    ("hub:", "names no set on a hub; write hub:OWNER/NAME"), ("hub:mmlu", "names no set on a hub"),
    ("hub:nobody/nothing-of-this-name", "The hub did not give 'nobody/nothing-of-this-name' .*; check the name"),
])
def test_a_hub_that_gives_nothing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path))
    with pytest.raises(LabError, match=says) as error:
        questions(name)
    assert_one_sentence(error.value)


items = st.lists(st.sampled_from("abcde"), max_size=40).map(
    lambda topics: [Question(id=str(i), question="?", topic=t) for i, t in enumerate(topics)])


@given(items, st.integers(1, 50), st.integers(0, 5))
def test_a_subset_is_reproducible_balanced_and_the_beginning_of_every_larger_one(
        every: list[Question], limit: int, seed: int) -> None:
    picked = subset(every, limit, seed)
    assert picked == subset(every, limit, seed) == subset(every, limit + 1, seed)[:limit]
    assert len(picked) == min(limit, len(every)) == len({q.id for q in picked})
    had, got = Counter(q.topic for q in every), Counter(q.topic for q in picked)
    most = max(got.values(), default=0)
    assert all(got[topic] >= min(had[topic], most - 1) for topic in had)


def test_another_seed_picks_other_topics_and_other_items_within_a_topic(everyday: list[Question]) -> None:
    one_topic = [q for q in everyday if q.topic == "food"]
    assert len({subset(one_topic, 1, seed)[0].id for seed in range(20)}) > 1
    assert len({subset(everyday, 1, seed)[0].topic for seed in range(20)}) > 1


def test_a_limit_picks_as_subset_does(everyday: list[Question]) -> None:
    assert questions("everyday", limit=30, seed=1) == subset(everyday, 30, 1)


@pytest.mark.parametrize(("change", "says"), [
    ({"answer": 2}, "Row 2 of 'my.jsonl' has the answer 2 for 2 choices; give an index from 0 to 1"),
    ({"answer": -1}, "Row 2 .* answer -1 .* from 0 to 1"),
    ({"answer": "B"}, "Row 2 .* answer 'B'; give the index"),
    ({"answer": True}, "Row 2 .* answer True; give the index"),
    ({"answer": 0.5}, "Row 2 .* answer 0.5; give the index"),
    ({"answer": None}, "Row 2 .* answer None; give the index"),
    ({"choices": ["yes"]}, "Row 2 .* two or more"),
    ({"choices": ["yes", "yes "]}, "Row 2 .* all different"),
    ({"choices": ["yes", None]}, "Row 2 .* none empty"),
    ({"choices": "yes or no"}, r"Row 2 .* no list of choices; write it as \["),
    ({"question": " "}, "Row 2 .* no question; fill"),
    ({"question": {"text": "Q"}}, "Row 2 .* no question; fill"),
    ({"id": "a"}, "Rows 1 and 2 of 'my.jsonl' share the id 'a'; give every row its own"),
])
def test_a_bad_row_is_named_with_its_remedy(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(LabError, match=says) as error:
        questions(jsonl(tmp_path, GOOD, {**GOOD, "id": "b", **change}))
    assert_one_sentence(error.value)


@pytest.mark.parametrize(("file", "content", "says"), [
    ("a.jsonl", b"", "'a.jsonl' is empty; it needs"),
    ("a.csv", b"question,choices,answer\n", "'a.csv' holds no rows; it needs"),
    ("a.csv", b"question,options,answer\nQ,\"[1, 2]\",0\n", "columns question, options, answer .* rename choices"),
    ("a.jsonl", b'{"question": "Q"}\nnonsense\n', "Row 2 of 'a.jsonl' is not JSON .*; write one"),
    ("a.jsonl", json.dumps(GOOD).encode() + b"\n5\n", "Row 2 of 'a.jsonl' is no JSON object; write"),
    ("a.jsonl", json.dumps(GOOD).encode() + b"\n\nnonsense\n", "Row 2 of 'a.jsonl' is blank; remove"),
    ("a.csv", b"question,choices,answer\nQ,[],0\nQ,[],0,1,2\n", "Row 2 of 'a.csv' has 5 fields for 3 columns; put quotes"),
    ("a.csv", b"question;references\nQ;A\n", "separated by semicolons; separate them by commas"),
    ("a.parquet", b"PAR1 is not all", "'a.parquet' cannot be read as PARQUET .*; mend"),
    ("a.xlsx", b"PK", r"must end in \.jsonl, \.csv, \.parquet"),
    ("a.jsonl", b"\xff\xfe{}", "'a.jsonl'"),
])
def test_an_unusable_question_file_is_one_sentence_and_no_noise(
        tmp_path: Path, file: str, content: bytes, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(LabError, match=says) as error:
        questions(tmp_path / file)
    assert_one_sentence(error.value)
    assert capfd.readouterr() == ("", "")


def test_whole_numbers_that_a_parquet_holds_as_floats_are_written_as_whole_numbers(tmp_path: Path) -> None:
    pd.DataFrame({"question": ["When?", "How much?"], "references": [1945.0, 0.5]}).to_parquet(tmp_path / "my.parquet")
    assert [item.references for item in questions(tmp_path / "my.parquet")] == [("1945",), ("0.5",)]


def test_a_parquet_file_without_rows_is_one_sentence(tmp_path: Path) -> None:
    pd.DataFrame([GOOD])[:0].to_parquet(tmp_path / "my.parquet")
    with pytest.raises(LabError, match="'my.parquet' holds no rows; it needs"):
        questions(tmp_path / "my.parquet")


def test_an_unknown_name_lists_the_names_there_are() -> None:
    with pytest.raises(LabError, match="no question set and no file 'evryday'; the names are everyday"):
        questions("evryday")
    with pytest.raises(LabError, match="no text and no file 'pydoc'; the names are pydoc-topics"):
        text("pydoc")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_that_leaves_nothing_is_refused(limit: int) -> None:
    with pytest.raises(LabError, match="leaves no questions; ask for 1 or more"):
        questions("everyday", limit=limit)


def test_the_named_text_carries_its_version_and_the_hash_of_what_was_loaded() -> None:
    source = text_source("pydoc-topics")
    assert source.text == text("pydoc-topics") and len(source.text) > 300_000
    assert source.sha256 == hashlib.sha256(source.text.encode()).hexdigest()
    assert sys.version.split()[0] in source.source and source.licence == "PSF-2.0"
    assert source.name in text_names()


def test_a_text_file_is_read_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "my.txt"
    path.write_bytes("Öl,\r\nzwei  Zeilen\n".encode())
    source = text_source(path)
    assert source.text == "Öl,\r\nzwei  Zeilen\n"
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("content", "says"), [
    (b" \n", "is empty; give"), (b"ab\xff", r"not UTF-8 text \(byte 2\); convert"), (b"GGUF\0\0", "zero bytes"),
])
def test_an_unusable_text_file_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "my.txt").write_bytes(content)
    with pytest.raises(LabError, match=says) as error:
        text(tmp_path / "my.txt")
    assert_one_sentence(error.value)


def test_a_folder_or_an_impossible_path_is_one_sentence(tmp_path: Path) -> None:
    for path in (str(tmp_path), "a\0b", "x" * 5000):
        for read in (questions, text):
            with pytest.raises(LabError, match="cannot be read .*; give"):
                read(path)


def test_loading_is_silent_needs_no_network_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
import sys
import lab.data
assert not {"datasets", "pandas", "pyarrow", "numpy"} & set(sys.modules), "importing lab.data is not light"
import socket
def refuse(*a, **k): raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
assert len(lab.data.questions("everyday", limit=20)) == 20
open("broken.csv", "w").write("a\\n1\\n1,2,3\\n")
try: lab.data.questions("broken.csv")
except lab.data.LabError: pass
import datasets
assert not datasets.are_progress_bars_disabled()
"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    clean |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(lab.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
                          env=clean)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [p.name for p in tmp_path.rglob("*")] == ["broken.csv"]


def assert_one_sentence(error: LabError) -> None:
    said = str(error)
    assert said.endswith(".") and "\n" not in said and not re.search(r"\. [A-Z]", said), said


def test_a_file_with_a_column_twice_and_characters_that_a_terminal_obeys_do_no_harm(tmp_path: Path) -> None:
    from lab.data import shown

    twice = tmp_path / "twice.csv"
    twice.write_text("question,question,references\na,b,c\n")
    with pytest.raises(LabError, match="column 'question' twice"):
        questions(str(twice))
    hostile = tmp_path / "hostile.jsonl"
    hostile.write_text(json.dumps({"question": "red \x1b[31m and \u202e back", "references": ["x\x00y"]}) + "\n")
    assert all(line.isprintable() for line in shown.items(str(hostile), 3))
