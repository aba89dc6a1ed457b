"""What the gateway's bench reckons from readings, and what it refuses; the measurement itself is `lab bench gateway`."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from lab.bench import gateway
from lab.bench._gateway_load import Load, added_at, added_p50, ratio, waited, worked
from lab.bench._gateway_peer import litellm
from lab.engines.http.running import keep_loaded
from lab.engines.http.served import ServeSettings, open_served
from lab.errors import LabError
from lab.records import Decoding
from lab.safety import Chain
from lab.safety.policy import load as load_policy


def _loads(added_s: float, letter_s: float = 0.02, rounds: int = 5) -> list[Load]:
    """Requests of random delay, the same in every call, each `added_s` later."""
    found = []
    for number in range(rounds):
        ttft = np.random.default_rng(number).uniform(0.02, 0.06, 200) + added_s
        letters = tuple(first + letter_s * np.arange(8) for first in ttft)
        found.append(Load(ttft_s=ttft, letters_s=letters, tokens=1600, cpu_s=2.0, seconds=4.0))
    return found


def test_what_every_request_took_longer_is_what_was_added() -> None:
    base, slower = _loads(0.0), _loads(0.003)
    for found in (added_p50(slower, base), added_at(99, slower, base)):
        assert found.value == pytest.approx(0.003) and found.low == pytest.approx(0.003) and found.high == pytest.approx(0.003)


def test_letters_that_a_guard_waits_for_are_no_work_of_it() -> None:
    base, guarded = _loads(0.0), _loads(0.062)
    assert waited(base, 4).value == pytest.approx(0.06)
    assert worked(guarded, base, 4).value == pytest.approx(0.002)


def test_an_arm_is_as_good_as_itself() -> None:
    assert ratio(_loads(0.0), _loads(0.1), lambda load: load.tokens / load.cpu_s).value == 1.0


def test_a_guarded_stream_shows_its_first_text_where_the_bench_says() -> None:
    letters = gateway.first_text(gateway.REPLY)
    flow = Chain(load_policy("default")).flow()
    shown = [flow.push(letter) for letter in gateway.REPLY[:letters]]
    assert letters > 1 and not any(shown[:-1]) and shown[-1]


def test_the_bench_refuses_what_it_cannot_measure(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no part 'speed'"):
        gateway.main(parts=["speed"])
    with pytest.raises(LabError, match="--litellm"):
        gateway.main(parts=["peers"])
    with pytest.raises(LabError, match="output tokens"):
        gateway.main(output_tokens=10_000)
    with pytest.raises(LabError, match="There is no LiteLLM in"), litellm(str(tmp_path), model="markov", port=1):
        pass


def test_a_scripted_server_spells_its_reply() -> None:
    served = open_served("markov", ServeSettings(engine="scripted", reply="né", step_ms=0.0))
    sampler = served.core.sampler(Decoding(seed=1))
    picked = [sampler.pick(0, np.zeros(257, np.float32)) for _ in range(5)]
    assert b"".join(map(served.core.piece, picked)).decode() == "né" and served.core.is_end(picked[-1])
    with pytest.raises(LabError, match="Only the scripted engine"):
        ServeSettings(engine="llama_cpp", reply="né")


def test_what_is_loaded_is_not_collected_again() -> None:
    before, held = gc.get_freeze_count(), [[i] for i in range(1000)]
    try:
        keep_loaded()
        assert gc.get_freeze_count() - before >= len(held)
    finally:
        gc.unfreeze()
