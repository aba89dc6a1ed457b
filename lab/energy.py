"""How much energy the machine used, where it can be read: Intel and AMD package counters (RAPL) and NVIDIA GPUs (NVML)."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Meter:
    """Around a load: `with Meter() as meter: ...`, then `meter.joules`, NaN where no counter can be read.

    CPU packages are read from Linux's powercap folder (their counters wrap around at `max_energy_range_uj`; a load longer
    than one turn, minutes to hours, is undercounted), GPUs from NVML's total energy. Memory and the rest of the machine
    are in neither.
    """

    folder: Path = POWERCAP
    joules: float = field(default=math.nan, init=False)

    def __enter__(self) -> Self:
        self._before = {**_packages(self.folder), **_gpus()}
        return self

    def __exit__(self, *_: object) -> None:
        after = {**_packages(self.folder), **_gpus()}
        if self._before and after.keys() == self._before.keys():
            self.joules = sum(_since(self._before[key], after[key]) for key in after)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    joules: float
    turn_joules: float = math.inf


def _since(before: _Reading, after: _Reading) -> float:
    grown = after.joules - before.joules
    return grown if grown >= 0 else grown + after.turn_joules


def _packages(folder: Path) -> dict[str, _Reading]:
    """Package zones only (`intel-rapl:0`): their parts (`intel-rapl:0:0`) are in them."""
    found = {}
    for zone in folder.glob("*-rapl:*"):
        if zone.name.count(":") == 1:
            with contextlib.suppress(OSError, ValueError):  # readable by root only on most systems
                turn = int((zone / "max_energy_range_uj").read_text()) / 1e6
                found[zone.name] = _Reading(joules=int((zone / "energy_uj").read_text()) / 1e6, turn_joules=turn)
    return found


def _gpus() -> dict[str, _Reading]:
    try:
        import pynvml  # comes with a GPU's tools; without them there is no energy to read
    except ImportError:
        return {}
    nvml: Any = pynvml
    found = {}
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlInit()
        for i in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(i)
            found[f"gpu{i}"] = _Reading(joules=nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
    return found
