"""Energy is what the package counters grew by, turns included, and NaN where there is none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lab.energy import Meter


def zone(folder: Path, name: str, joules: float, turn: float = 100.0) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{round(turn * 1e6)}\n")


def test_packages_are_summed_and_their_parts_are_not_counted_again(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(tmp_path, name, 10)
    with Meter(folder=tmp_path) as meter:
        for name, joules in (("intel-rapl:0", 13), ("intel-rapl:1", 14), ("intel-rapl:0:0", 12)):
            zone(tmp_path, name, joules)
    assert meter.joules == pytest.approx(7)


def test_a_counter_that_turns_over_goes_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 95)
    with Meter(folder=tmp_path) as meter:
        zone(tmp_path, "intel-rapl:0", 3)
    assert meter.joules == pytest.approx(8)


def test_no_counter_is_not_zero_energy(tmp_path: Path) -> None:
    with Meter(folder=tmp_path) as meter:
        pass
    assert math.isnan(meter.joules)
