"""The arithmetic of the benches and what they read from the tools' output; never a timing."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.bench import _pairing as pairing
from lab.bench import engine, peers
from lab.engines import open_engine
from lab.errors import LabError
from lab.metrics import perplexity

speeds = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9)


def test_rounds_alternate_their_order_so_that_drift_favours_no_arm() -> None:
    called: list[str] = []

    def arm(name: str) -> pairing.Arm:
        return lambda: called.append(name) or {"speed": 1.0}  # type: ignore[func-returns-value]

    rounds = pairing.interleave({"ours": arm("ours"), "peer": arm("peer")}, 4)
    assert called == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert len(rounds) == 4


@given(speeds, st.floats(0.1, 10))
def test_a_peer_that_is_always_k_times_slower_gives_the_ratio_k_however_the_machine_drifts(
    ours: list[float], k: float
) -> None:
    peer = tuple(v / k for v in ours)
    made = pairing.Comparison(name="x", unit="tokens/s", ours=tuple(ours), peer=peer, at_least=k * 0.99)
    assert made.ratio == pytest.approx(k)
    assert made.ratios == pytest.approx([k] * len(ours))
    assert made.reached is True


def test_ratios_pair_the_figures_of_one_round() -> None:
    rounds = [pairing.Round(figures={"ours": {"a": o}, "peer": {"b": p}}, foreign_share=share)
              for o, p, share in ((10.0, 10.0, 0.0), (1.0, 2.0, 0.9), (30.0, 10.0, math.nan))]
    made = pairing.compare("x", "tokens/s", rounds, ("ours", "a"), ("peer", "b"), at_least=1.5)
    assert made.ratios == (1.0, 0.5, 3.0)
    assert made.ratio == 1.0
    assert made.reached is False
    assert made.busy_rounds == 1


def test_without_a_peer_our_own_figures_stay_and_nothing_is_claimed() -> None:
    rounds = [pairing.Round(figures={"ours": {"a": 5.0}}, foreign_share=0.0)]
    made = pairing.compare("x", "tokens/s", rounds, ("ours", "a"), ("peer", "b"), at_least=0.98)
    assert made.ours == (5.0,)
    assert made.ratios == ()
    assert math.isnan(made.ratio)
    assert made.reached is None
    assert not {"yes", "NO"} & set(made.line().split())
    assert made.as_json()["ratio"] is None
    json.dumps(made.as_json(), allow_nan=False)


def test_llama_bench_speeds_are_tokens_over_the_seconds_of_the_sample() -> None:
    output = json.dumps([{"n_prompt": 512, "n_gen": 0, "samples_ns": [2_000_000_000]},
                         {"n_prompt": 0, "n_gen": 64, "samples_ns": [500_000_000]}])
    assert engine.parse_bench(output) == {"prefill": 256.0, "decode": 128.0}


def test_a_tool_that_fails_is_named_with_the_last_line_it_printed() -> None:
    said = "import sys; print('figures'); print('why it failed', file=sys.stderr); sys.exit({})"
    assert peers.printed([sys.executable, "-c", said.format(0)]) == "figures\nwhy it failed\n"
    with pytest.raises(LabError, match=r"python.* -c .* failed \(why it failed\); run it by hand") as refused:
        peers.run([sys.executable, "-c", said.format(3)])
    assert str(refused.value).endswith(".")
    with pytest.raises(LabError, match="no output"):
        peers.run([sys.executable, "-c", "raise SystemExit(1)"])


LOG = """0.01.064.162 I cmn          init: llama threadpool init, n_threads = 2
0.02.696.040 I perplexity: calculating perplexity over 8 chunks, n_ctx=512, batch_size=2048, n_seq=4
0.52.916.482 I perplexity: 50.22 seconds per pass - ETA 1.67 minutes
[1]17.6761,[2]12.6158,[3]11.2263,
1.27.444.708 I Final estimate: PPL = 11.9669 +/- 0.71792
"""


def test_perplexity_time_runs_from_the_start_of_scoring_to_the_result() -> None:
    value, seconds = engine.parse_perplexity(LOG)
    assert value == 11.9669
    assert seconds == pytest.approx(87.444708 - 2.696040)


def test_a_log_without_a_result_is_refused_with_a_sentence() -> None:
    with pytest.raises(LabError, match="no stamped result"):
        engine.parse_perplexity(LOG.rsplit("1.27", 1)[0])


def test_four_decimals_decide_whether_perplexities_are_equal() -> None:
    speed = pairing.Comparison(name="x", unit="tokens/s", ours=(1.0,))
    assert engine._Perplexities(speed=speed, ours=11.96692, peer=11.9669).equal is True
    assert engine._Perplexities(speed=speed, ours=11.96702, peer=11.9669).equal is False
    assert engine._Perplexities(speed=speed, ours=11.96692, peer=math.nan).equal is None


def test_overhead_is_what_the_stream_adds_to_the_bare_loop() -> None:
    text = {1000: 2e-6, 10_000: 3e-6}
    made = engine._Streaming(stream_s=(1.02, 2.06, 3.03), bare_s=(1.0, 2.0, 3.0), text_s_per_token=text)
    assert made.overhead_share == pytest.approx(0.02)
    assert made.text_growth == pytest.approx(1.5)
    assert made.text_share == pytest.approx(2e-6 / (2.0 / engine.BLOCK))


@given(st.integers(0, 700), st.integers(1, 700))
def test_pieces_cover_every_row_once_and_only_a_short_text_has_a_short_piece(start: int, count: int) -> None:
    spans = list(perplexity.pieces(start, start + count))
    assert [row for a, b in spans for row in range(a, b)] == list(range(start, start + count))
    assert all(b - a >= perplexity.PIECE for a, b in spans) or len(spans) == 1
    assert all(b - a < 2 * perplexity.PIECE for a, b in spans)


def test_a_text_read_in_pieces_has_the_logits_of_one_read_at_once() -> None:
    llama = open_engine("llama_cpp", "smollm2-135m", threads=1)
    try:
        size = perplexity.PIECE
        text = llama.tokenize("The quick brown fox jumps over the lazy dog. " * 40)[: 2 * size + 1]
        other = [*text[1:size], text[0], *text[size:]]
        at_once = llama.logits(text, start=1).copy()
        llama.logits(other[: size + 1])  # another text must leave nothing behind
        pieces = [llama.logits(text[:b], start=a).copy() for a, b in ((1, size + 1), (size + 1, 2 * size + 1))]
        np.testing.assert_allclose(np.concatenate(pieces), at_once, atol=1e-3)
        with pytest.raises(LabError, match="Token"):
            llama.logits([*text[:size], -1], start=size)
    finally:
        llama.close()


def test_the_options_of_a_bench_are_the_parameters_of_its_main() -> None:
    import inspect

    from lab.bench import _options, load

    assert list(_options.options("load")) == list(inspect.signature(load.main).parameters)
    assert _options.values("load", {"streams": "1,16", "seconds": "0.5", "rounds": None}) == {"streams": (1, 16), "seconds": 0.5}
    with pytest.raises(LabError, match="whole numbers"):
        _options.values("load", {"streams": "1,x"})
