"""The pages, run without a browser: empty store, real runs, deep links, and nothing hidden that lessens a number."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sample_store
from streamlit.testing.v1 import AppTest

from lab import experiments, wording
from lab.bench._dashboard_store import multiplied
from lab.experiments import question_of
from lab.ops import history, store, tracking, versions
from lab.records import Estimate, Trial, Verdict

APP = Path(__file__).parent.parent / "app.py"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mlruns").mkdir()
    with sample_store.at(tmp_path) as home:
        yield home


@pytest.fixture
def sample() -> Iterator[Path]:
    with sample_store.at(sample_store.home()) as home:
        yield home


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(sample_store.home() / "mlruns", tmp_path / "mlruns")
    with sample_store.at(tmp_path) as home:
        yield home


def page(name: str = "overview", **query: str | list[str]) -> AppTest:
    app = AppTest.from_file(str(APP), default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    if name != "overview":
        app.switch_page(f"lab/pages/{name}.py").run()
    assert not app.exception, app.exception
    return app


def text(app: AppTest) -> str:
    parts = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.warning, *app.info, *app.error, *app.code]
    return "\n".join(str(part.value) for part in parts).replace("\\", "")


def values(app: AppTest, key: str) -> list[str]:
    """What the address gives for `key`; one value alone is not a list there."""
    given = app.query_params[key]
    return [given] if isinstance(given, str) else sorted(given)


def run_ids(experiment: str) -> list[str]:
    return list(history.frame("experiment", experiment=experiment)["run_id"])


def test_an_empty_store_names_the_commands_that_fill_it(empty: Path) -> None:
    shown = [code.value for code in page().code]
    assert shown[0] == "lab demo"
    assert {f"lab run {name}" for name in experiments.names()} <= set(shown[1].splitlines())
    compare = page("compare")
    assert [code.value for code in compare.code] == [f"lab run {compare.selectbox[0].value}"]


def test_a_store_that_cannot_be_read_is_one_sentence(empty: Path) -> None:
    (empty / "mlruns" / "mlflow.db").write_text("no database, but long enough to be read as one")
    for name in ("overview", "compare"):
        app = page(name)
        assert len(app.error) == 1
        assert app.error[0].value.endswith(".")


def test_the_overview_shows_each_question_with_its_latest_verdict_and_caveats(sample: Path) -> None:
    shown = text(page())
    for name in ("performance", "quantization"):
        assert question_of(experiments.find(name)) in shown
    assert "Ship Q4_K_M" in shown
    assert sample_store.CAVEAT in shown
    assert sample_store.MACHINE["machine.cpu"] in shown
    assert "why to distrust" in shown


def test_headline_numbers_have_units_and_intervals(sample: Path) -> None:
    metrics = {m.label: m for m in page().metric}
    assert metrics["Decode"].value.endswith(" tokens/s")
    assert " to " in metrics["Decode"].delta


def test_an_interrupted_run_is_marked_on_both_pages(sample: Path) -> None:
    app = page()
    assert any("1 of the newest 4 runs did not finish" in w.value for w in app.warning)
    assert "interrupted" in list(app.dataframe[0].value["State"])
    interrupted = next(r for r in history.frame("experiment").itertuples() if r.state == "interrupted")
    compare = page("compare", experiment="performance", run=interrupted.run_id)
    assert any("was interrupted and is incomplete" in w.value for w in compare.warning)
    assert len(compare.dataframe[0].value) == 2


def test_the_reason_of_a_failed_run_is_shown_as_plain_text(copied: Path) -> None:
    client = tracking.writer()
    run = tracking.start_parent(client, "performance", "performance <b>x</b>", **{"lab.reason": "It *broke*: $5"})
    tracking.finish(client, run, "failed")
    warning = page().warning[0].value
    assert r"It \*broke\*\: \$5" in warning
    assert r"\<b\>" in warning


def test_compare_opens_on_the_newest_run_and_its_address_says_so(sample: Path) -> None:
    app = page("compare")
    assert app.selectbox[0].value == "quantization"
    assert app.multiselect[0].value == run_ids("quantization")
    assert values(app, "run") == run_ids("quantization")


def test_a_link_restores_the_selection(sample: Path) -> None:
    runs = run_ids("performance")
    trials = history.frame(parents=runs)
    names = ["1 thread", "2 threads"]
    chosen = list(trials[trials["name"] == "2 threads"]["run_id"])
    asked = {
        "experiment": ["performance"],
        "run": runs[1:],
        "trial": names,
        "x": ["prefill_tokens_per_s"],
        "y": ["e2e_s"],
        "baseline": [chosen[0]],
        "other": [chosen[1]],
    }
    app = page("compare", **asked)
    assert set(app.multiselect[0].value) == set(runs[1:])
    assert app.multiselect[1].value == names
    boxes = [box.value for box in app.selectbox]
    assert boxes[:4] == ["performance", chosen[0], "metrics.prefill_tokens_per_s", "metrics.e2e_s"]
    assert boxes[-1] == chosen[1]
    assert set(app.dataframe[0].value["Trial"]) == set(names)
    assert {key: values(app, key) for key in asked} == {key: sorted(value) for key, value in asked.items()}


def test_the_selection_survives_its_own_changes(sample: Path) -> None:
    app = page("compare")
    app.selectbox[0].select("performance").run()
    runs = run_ids("performance")
    app.multiselect[0].set_value(runs[1:]).run()
    assert app.multiselect[0].value == runs[1:]
    assert values(app, "run") == sorted(runs[1:])
    app.multiselect[1].set_value(["2 threads"]).run()
    assert app.multiselect[0].value == runs[1:]
    assert list(app.dataframe[0].value["Trial"]) == ["2 threads"] * 2
    app.multiselect[0].set_value([]).run()
    assert not app.exception
    assert "Choose at least one run" in text(app)


def test_a_new_address_replaces_the_selection(sample: Path) -> None:
    app = page("compare")
    runs = run_ids("performance")
    app.query_params.clear()
    app.query_params["experiment"], app.query_params["run"] = "performance", runs[2]
    app.run()
    assert app.selectbox[0].value == "performance"
    assert app.multiselect[0].value == [runs[2]]


def test_a_run_that_is_not_in_the_store_is_named(sample: Path) -> None:
    assert "The address names run 0123abc" in text(page("compare", experiment="performance", run="0123abc"))


def test_the_table_has_units_and_intervals_and_what_lessens_its_numbers_stands_above(sample: Path) -> None:
    app = page("compare", experiment="quantization")
    table = app.dataframe[0].value
    frame = history.frame(parents=run_ids("quantization")).iloc[::-1]
    assert list(table["Trial"]) == list(frame["name"])
    assert list(table["metrics.ttft_s"]) == pytest.approx(list(frame["metrics.ttft_s"] * 1000))
    assert all(" to " in cell for cell in table["metrics.ttft_s interval"])
    assert '"Time to first token (ms)"' in app.dataframe[0].proto.columns
    shown = "\n".join(w.value for w in app.warning).replace("\\", "")
    assert sample_store.CAVEAT in shown
    assert "Machine busy: Q6_K" in shown


def test_differences_are_shown_with_their_significance(sample: Path) -> None:
    frame = history.frame(parents=run_ids("quantization")).set_index("name")
    app = page(
        "compare", experiment="quantization", baseline=frame.loc["F32", "run_id"], other=frame.loc["Q2_K", "run_id"]
    )
    table = next(d.value for d in app.dataframe if "Result" in d.value).set_index("Measure")
    assert table.loc["Decode (tokens/s)", "Result"] == "Better"
    assert table.loc["Loss per token (nats)", "Result"] == "Worse"
    assert table.loc["Load time (s)", "Result"] == "Not tested"
    assert "Q2_K against F32: better in" in text(app)


def test_a_store_with_a_run_but_no_trial_yet_shows_it(copied: Path) -> None:
    run = tracking.start_parent(tracking.writer(), "performance", "performance now")
    assert "A newer run, now, is still running." in text(page())
    app = page("compare", experiment="performance", run=run)
    assert "No trial has been recorded yet" in text(app)
    assert "is still running" in text(app)


def test_trials_without_measures_and_experiments_that_are_gone_are_shown(copied: Path) -> None:
    client = tracking.writer()
    run = tracking.start_parent(client, "gone", "gone 1")
    for i in range(2):
        tracking.write_trial(
            client, "gone", run, Trial(name=f"t{i}", settings={"size": i}, measures={"load_s": float(i)})
        )
    tracking.finish(client, run)
    assert "Gone" in text(page())
    app = page("compare", experiment="gone", run=run)
    assert list(app.dataframe[0].value["metrics.load_s"]) == [0.0, 1.0]


def test_new_runs_are_seen_at_the_next_run_of_the_page(copied: Path) -> None:
    app = page()
    before = len(app.dataframe[0].value)
    tracking.finish(tracking.writer(), tracking.start_parent(tracking.writer(), "performance", "performance newer"))
    app.run()
    assert len(app.dataframe[0].value) == before + 1


def test_a_page_runs_again_quickly(sample: Path) -> None:
    app = page("compare")
    started = time.process_time()
    app.run()
    assert time.process_time() - started < 3.0


def test_every_experiment_of_the_folder_can_be_chosen(sample: Path) -> None:
    offered = {option.lower().replace(" ", "_") for option in page("compare").selectbox[0].options}
    assert set(experiments.names()) <= offered


def test_the_recommended_configuration_becomes_a_candidate_only_when_it_is_confirmed(copied: Path) -> None:
    client = tracking.writer()
    run = tracking.start_parent(client, "performance", "performance scripted")
    for name, rate in (("slow", 25.0), ("fast", 90.0)):
        tracking.write_trial(client, "performance", run, Trial(
            name=name, settings={"engine": "scripted", "model": "markov"}, measures={"decode_tokens_per_s": rate}))
    tracking.finish(client, run)
    app = page("compare", experiment="performance", run=run)
    assert "Recommended: fast" in text(app)
    next(one for one in app.button if one.label == "Make it a release candidate").click().run()
    assert versions.current().candidate is None
    app.button(key="compare.propose").click().run()
    assert "Give a system prompt, your name and a reason first." in text(app)
    app.text_area[0].input("Be brief.")
    app.text_input[0].input("ana").run()
    app.button(key="compare.propose").click().run()
    assert not app.exception, app.exception
    candidate = versions.find("candidate")
    assert candidate.prompt.text == "Be brief."
    assert history.frame(parents=[run]).set_index("run_id").loc[candidate.runs[0], "name"] == "fast"


def test_a_limit_in_the_address_is_in_force_and_what_is_no_limit_is_said(sample: Path) -> None:
    app = page("compare", experiment="quantization", need=["decode_tokens_per_s:least:300", "nonsense"])
    standing = next(d.value for d in app.dataframe if "Standing" in d.value).set_index("Configuration")["Standing"]
    assert {name for name, said in standing.items() if said == "✓ Qualifies"} == {"Q4_0", "Q3_K_M", "Q2_K"}
    assert "'nonsense' is no constraint" in text(app)
    assert values(app, "need") == ["decode_tokens_per_s:least:300"]


def test_what_an_address_asks_for_in_vain_is_said(sample: Path) -> None:
    assert "names the experiment nonsense" in text(page("compare", experiment="nonsense"))
    shown = text(page("compare", experiment="quantization", x="wheels", y="perplexity", baseline="ffff", other="eeee",
                      prefer="luck", need=["requests_per_s:least:1", "decode_tokens_per_s:least:-5"]))
    for line in ("the measure across wheels", "the baseline ffff", "the trial eeee", "the measure to prefer luck",
                 "sets the limit requests_per_s:least:1", "The limit of decode in the address, -5, is outside"):
        assert line in shown, line
    assert "the measure up" not in shown
    assert "names the" not in text(page("compare", experiment="quantization", y="perplexity"))


def test_a_recommendation_unlike_the_verdict_says_why_and_one_like_it_does_not(sample: Path) -> None:
    chosen = wording.verdict(history.frame("experiment", experiment="quantization").iloc[0])
    assert chosen is not None and chosen.chosen
    app = page("compare", experiment="quantization", need="decode_tokens_per_s:least:0", prefer="file_bytes")
    recommended = next(line for line in text(app).splitlines() if "Recommended: " in line)
    assert ("The verdict chose" in text(app)) == (chosen.chosen not in recommended)
    assert f"The verdict chose {chosen.chosen}" in text(app)


def test_configurations_of_any_experiments_are_named_in_short_and_runs_in_the_list_by_their_settings(copied: Path) -> None:
    client, runs = tracking.writer(), []
    for experiment, settings in (("performance", "repeats=3"), ("quality", "items=9")):
        runs.append(tracking.start_parent(client, experiment, f"{experiment} scripted ({settings}) 2026-11-29 10:00:00"))
        tracking.write_trial(client, experiment, runs[-1], Trial(
            name="F16", settings={"engine": "scripted", "model": "markov", "threads": 1},
            measures={"decode_tokens_per_s" if experiment == "performance" else "quality": 0.5}))
        tracking.write_trial(client, experiment, runs[-1], Trial(
            name="Q8", settings={"engine": "scripted", "model": "markov", "threads": 2},
            measures={"decode_tokens_per_s" if experiment == "performance" else "quality": 0.4}))
        tracking.finish(client, runs[-1])
    app = page("compare", experiment="any", run=runs)
    table = next(d.value for d in app.dataframe if "Standing" in d.value)
    assert set(table["Configuration"]) == {"F16 · markov · performance, quality", "Q8 · markov · performance, quality"}
    listed = page("compare", experiment="performance", run=runs[:1]).multiselect[0].options
    assert any("(repeats=3)" in option for option in listed)


def test_a_card_of_an_experiment_that_is_gone_heads_no_bound_of_an_interval_and_shows_its_cautions(copied: Path) -> None:
    client = tracking.writer()
    run = tracking.start_parent(client, "bygone", "bygone run")
    tracking.write_trial(client, "bygone", run, Trial(
        name="one", settings={"threads": 1}, flags=("machine busy: others",), measures={
            "cpu_s_per_token": Estimate(value=0.19, low=0.18, high=0.197), "ttft_s": 0.3}))
    tracking.decided(client, run, Verdict(decision="Done.", chosen="one"), "Was it?")
    app = page()
    labels = {metric.label for metric in app.metric}
    assert {label for label in labels if label.lower().startswith("cpu")} and not [
        label for label in labels if label.lower().endswith((" low", " high"))]
    assert "Machine busy: one." in text(app)


def test_the_overview_says_what_changed_and_how_the_workbench_is(sample: Path) -> None:
    shown = text(page())
    assert "What changed" in shown
    assert "worse in" in shown
    assert "GB free" in shown


def test_a_store_copied_for_timing_holds_whole_runs(copied: Path) -> None:
    before = len(history.frame("trial"))
    file = store.database()
    assert file is not None
    there = multiplied(file, 5 * before)
    runs, trials = history.frame("experiment"), history.frame("trial")
    assert len(runs) + len(trials) == there >= 5 * before
    assert trials["run_id"].is_unique
    assert set(trials["parent_id"]) <= set(runs["run_id"])
