"""Laws of prefix reuse: a hit changes no token, counts are true, nothing leaks, and what is on disk survives or is refused."""

from __future__ import annotations

import math
import os
import resource
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import machine
from lab.engines.llama.context import Context
from lab.engines.llama.weights import Weights
from lab.engines.scheduling.job import Job
from lab.engines.scheduling.prefix import Held, TieredPrefixCache, distinct
from lab.engines.scheduling.radix import RadixTree, packed
from lab.engines.scheduling.scheduler import Scheduler
from lab.engines.scheduling.scripted_core import ScriptedCore
from lab.engines.scheduling.state_files import DiskStates, identity
from lab.engines.scheduling.states import MemoryStates
from lab.errors import LabError
from lab.experiments.prompt_cache import MOST_SLOTS, Pass, PromptCache, saved
from lab.load.scheduled import closed_loop
from lab.metrics import speed
from lab.models import find
from lab.records import Decoding, Request

OURS = identity(sha256="a" * 64, kv_type="f16", flash_attention="on", version="1")

# The radix tree

short = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)


def in_common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@settings(max_examples=300, deadline=None)
@given(stored=st.lists(short, max_size=14), removed=st.lists(st.integers(0, 13), max_size=8), asked=st.lists(short, max_size=8))
def test_a_lookup_finds_the_longest_common_prefix_that_brute_force_finds(
    stored: list[tuple[int, ...]], removed: list[int], asked: list[tuple[int, ...]]
) -> None:
    tree, there = RadixTree(), set(stored)
    for one in stored:
        tree.add(packed(one))
    for one in {stored[i] for i in removed if i < len(stored)}:
        tree.remove(packed(one))
        there.remove(one)
    for question in [*asked, *stored]:
        n, key = tree.longest(packed(question))
        assert n == max((in_common(question, one) for one in there), default=0)
        assert (key is None) == (n == 0)
        if key is not None:
            found = tuple(np.frombuffer(key, np.int32).tolist())
            assert found in there
            assert in_common(question, found) == n
        inside = {packed(one) for one in there if len(one) < len(question) and question[: len(one)] == one}
        assert set(tree.shorter(packed(question))) == inside


@given(stored=st.sets(short, min_size=1, max_size=20), gone=st.integers(0, 20))
def test_edges_stay_compressed_so_that_a_lookup_takes_no_more_nodes_than_there_are_branches(
    stored: set[tuple[int, ...]], gone: int
) -> None:
    tree, order = RadixTree(), sorted(stored)
    for one in order:
        tree.add(packed(one))
    for one in order[:gone]:
        tree.remove(packed(one))
    nodes = [tree._root]
    for node in nodes:
        nodes += node.children.values()
    assert all(node.key is not None or len(node.children) >= 2 for node in nodes[1:])
    assert len(nodes) - 1 <= 2 * max(0, len(order) - gone)


def test_removing_what_is_not_there_is_an_error() -> None:
    tree = RadixTree()
    tree.add(packed([1, 2, 3]))
    for missing in ([1, 2], [1, 2, 3, 4], [2]):
        with pytest.raises(KeyError):
            tree.remove(packed(missing))


# Counting cells


@given(cuts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40), st.integers(0, 5), st.booleans()), max_size=12))
def test_cells_shared_by_several_sequences_are_counted_once(cuts: list[tuple[int, int, int, bool]]) -> None:
    held, truth, cell = [Held()], [[]], 0
    for cut, length, source, dropped in cuts:
        source %= len(held)
        shared = truth[source][:cut]
        own = list(range(cell, cell + max(0, length - len(shared))))
        cell += len(own)
        held.append(held[source].cut(cut).grown(max(length, len(shared))))
        truth.append([*shared, *own])
        if dropped:
            del held[source], truth[source]
        assert distinct(held) == len({c for cells in truth for c in cells})


# The cache under the scheduler

PREFIXES = [np.random.default_rng(i).integers(0, 250, 48).tolist() for i in range(3)]


def request(kind: int, shared: int, own: int, output: int, seed: int) -> tuple[Request, list[int]]:
    """A prompt that begins with `shared` tokens of a common text and goes on with `own` tokens of its own."""
    tokens = [*PREFIXES[kind][:shared], *np.random.default_rng(1000 + seed).integers(0, 250, own).tolist()]
    decoding = Decoding(max_tokens=output, temperature=seed % 2, seed=seed, ignore_eos=True)
    return Request(id=str(seed), tokens=tuple(tokens), decoding=decoding), tokens


def finish(scheduler: Scheduler, limit: int = 20_000) -> None:
    for _ in range(limit):
        if scheduler.idle:
            return
        scheduler.step()
    raise AssertionError("the schedule did not end")


def alone(asked: tuple[Request, list[int]]) -> list[int]:
    scheduler = Scheduler(ScriptedCore(context_tokens=256), policy="sequential")
    job = scheduler.submit(*asked)
    finish(scheduler)
    return job.output


def check(core: ScriptedCore, scheduler: Scheduler, cache: TieredPrefixCache) -> None:
    """What is true between any two steps."""
    assert scheduler.cells == core.used()
    assert cache.cells <= core.used()
    for job in scheduler.running:
        assert np.frombuffer(core.save(job.slot), np.int32).tolist() == job.tokens[: job.done]
    for key, entry in cache._entries.items():
        assert core.save(entry.slot) == key
    for tier in (cache.memory, cache.disk):
        if tier is not None:
            assert tier.held_bytes <= tier.capacity_bytes
    if cache.memory is not None:
        assert {cache.memory.get(key) for key in list(cache.memory.shelf)} == set(cache.memory.shelf)
    if cache.disk is not None:
        assert sum(file.stat().st_size for file in cache.disk.folder.iterdir()) == cache.disk.held_bytes


work = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 48), st.integers(1, 30), st.integers(1, 24)),
                min_size=1, max_size=14)


@settings(max_examples=250, deadline=None)
@given(
    work=work, cells=st.integers(110, 260), sequences=st.integers(2, 6), slots=st.integers(0, 4), most=st.integers(0, 120),
    memory=st.sampled_from([None, 0, 2000, 4000, 10**6]), disk=st.sampled_from([None, 0, 900, 2500, 10**6]),
    least=st.sampled_from([1, 8, 32]), output=st.booleans(), budget=st.integers(10, 64),
    between=st.lists(st.integers(0, 9), max_size=14), cancelled=st.sets(st.integers(0, 13), max_size=3),
)
def test_a_cache_changes_no_token_holds_no_more_than_it_may_and_counts_every_cell(
    work: list[tuple[int, int, int, int]], cells: int, sequences: int, slots: int, most: int, memory: int | None,
    disk: int | None, least: int, output: bool, budget: int, between: list[int], cancelled: set[int],
) -> None:
    core = ScriptedCore(context_tokens=cells, sequences=sequences + slots)
    with tempfile.TemporaryDirectory() as folder:
        cache = TieredPrefixCache(
            core, slots=slots, most_cells=most, memory=None if memory is None else MemoryStates(memory),
            disk=None if disk is None else DiskStates(Path(folder), identity=OURS, capacity_bytes=disk),
            min_tokens=least, keep_output=output)
        scheduler = Scheduler(core, cache=cache, first_slot=slots, token_budget=budget)
        asked = [request(*one, seed=i) for i, one in enumerate(work)]
        jobs: list[Job] = []
        for i, one in enumerate(asked):
            jobs.append(scheduler.submit(*one))
            for _ in range(between[i] if i < len(between) else 0):
                scheduler.step()
                check(core, scheduler, cache)
            if i in cancelled:
                scheduler.cancel(jobs[-1])
                check(core, scheduler, cache)
        while not scheduler.idle:
            scheduler.step()
            check(core, scheduler, cache)
        for job, one in zip(jobs, asked, strict=True):
            expected = alone(one)
            assert job.output == (expected[: len(job.output)] if job.finish_reason == "cancelled" else expected)
            assert 0 <= job.cached_tokens < job.prompt_tokens
        assert core.used() == cache.cells
        cache.clear()
        assert core.used() == cache.cells == 0
        if cache.disk is not None:
            cache.disk.clear()
            assert os.listdir(folder) == []


def ask(cache: TieredPrefixCache, core: ScriptedCore, *one: int, slots: int = 0) -> Job:
    scheduler = Scheduler(core, cache=cache, first_slot=slots)
    job = scheduler.submit(*request(*one))
    finish(scheduler)
    return job


@pytest.mark.parametrize("tier", ["cells", "memory", "disk"])
def test_every_tier_reuses_the_common_part_of_a_longer_prompt_and_leaves_a_token_to_feed(tier: str, tmp_path: Path) -> None:
    core, slots = ScriptedCore(), 2 if tier == "cells" else 0
    cache = TieredPrefixCache(
        core, slots=slots, memory=MemoryStates(10**6) if tier == "memory" else None,
        disk=DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6) if tier == "disk" else None)
    assert ask(cache, core, 0, 48, 5, 3, 1, slots=slots).cached_tokens == 0
    assert ask(cache, core, 0, 48, 7, 3, 2, slots=slots).cached_tokens == 48
    assert ask(cache, core, 0, 40, 3, 3, 3, slots=slots).cached_tokens == 40
    assert ask(cache, core, 0, 48, 5, 3, 1, slots=slots).cached_tokens == 52, "the same prompt leaves its last token"
    assert cache.counts.hits == {tier: 3}
    assert len(cache.counts.save_s) == (0 if tier == "cells" else 1), "suffixes shorter than min_tokens are not kept"


@pytest.mark.parametrize("tier", ["cells", "memory", "disk"])
def test_a_match_shorter_than_the_shortest_is_chance_and_takes_nothing_from_the_cache(tier: str, tmp_path: Path) -> None:
    core, slots = ScriptedCore(), 2 if tier == "cells" else 0
    cache = TieredPrefixCache(
        core, slots=slots, min_tokens=16, memory=MemoryStates(10**6) if tier == "memory" else None,
        disk=DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6) if tier == "disk" else None)
    ask(cache, core, 0, 48, 2, 1, 1, slots=slots)
    for shared in (5, 15):
        asked = Scheduler(core, cache=cache, first_slot=slots).submit(*request(0, shared, 6, 1, 2))
        assert cache.covers(asked) == 0
        assert ask(cache, core, 0, shared, 6, 1, 2, slots=slots).cached_tokens == 0
    assert (cache.counts.hits, cache.counts.misses) == ({}, 3)
    assert ask(cache, core, 0, 16, 6, 1, 2, slots=slots).cached_tokens == 16
    # What cannot be reused counts for nothing either when an entry asks to be kept: 15 tokens in common, 30 in all.
    assert cache.counts.kept == 2
    ask(cache, core, 1, 48, 2, 1, 3, slots=slots)
    ask(cache, core, 1, 15, 15, 1, 4, slots=slots)
    assert cache.counts.kept == 4
    assert ask(cache, core, 1, 15, 15, 1, 4, slots=slots).cached_tokens == 29


def test_an_evicted_entry_goes_down_a_tier_and_comes_back_up_when_it_is_hit(tmp_path: Path) -> None:
    core = ScriptedCore()
    memory, disk = MemoryStates(2000), DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6)
    cache = TieredPrefixCache(core, slots=1, memory=memory, disk=disk)
    for kind in (0, 1, 2):
        ask(cache, core, kind, 48, 2, 1, kind, slots=1)
    held = [shelf.longest(packed(PREFIXES[kind]))[0] for shelf, kind in
            ((cache._shelf, 2), (memory.shelf, 1), (disk.shelf, 0))]
    assert held == [48, 48, 48]
    assert ask(cache, core, 0, 48, 3, 1, 9, slots=1).cached_tokens == 48
    assert cache.counts.hits == {"disk": 1}
    assert cache._shelf.longest(packed(PREFIXES[0]))[0] == 48
    assert ask(cache, core, 0, 48, 4, 1, 10, slots=1).cached_tokens == 48
    assert cache.counts.hits == {"disk": 1, "cells": 1}


def test_the_least_recently_used_state_goes_first() -> None:
    memory = MemoryStates(3 * 1500)
    keys = [packed([i] * 20) for i in range(5)]
    for key in keys[:3]:
        assert memory.put(key, b"x" * 200) == []
    memory.get(keys[0])
    assert [key for key, _ in memory.put(keys[3], b"x" * 200)] == [keys[1]]
    assert [key for key, _ in memory.put(keys[4], b"x" * 200)] == [keys[2]]
    assert set(memory.shelf) == {keys[0], keys[3], keys[4]}


def test_cells_of_a_running_job_are_not_given_back() -> None:
    core = ScriptedCore(context_tokens=256)
    cache = TieredPrefixCache(core, slots=2, most_cells=200)
    ask(cache, core, 0, 48, 20, 1, 1, slots=2)
    ask(cache, core, 1, 48, 2, 1, 2, slots=2)
    scheduler = Scheduler(core, cache=cache, first_slot=2)
    job = scheduler.submit(*request(0, 48, 3, 20, 3))
    scheduler.step()
    assert job.shared == 48
    assert cache.cells == 68 + 50
    assert not cache.evict(71)
    assert cache.cells == 68 + 50, "what cannot be done in full is not begun"
    assert cache.evict(51)
    assert len(cache._shelf) == 0, "the tail of the shared entry had to go too"
    assert cache.cells == 48
    finish(scheduler)
    assert job.output == alone(request(0, 48, 3, 20, 3))


def test_a_cached_prefix_is_not_evicted_to_make_room_for_its_own_recomputation() -> None:
    core = ScriptedCore(context_tokens=100)
    cache = TieredPrefixCache(core, slots=1, most_cells=60)
    ask(cache, core, 0, 48, 2, 1, 1, slots=1)
    assert ask(cache, core, 0, 48, 10, 5, 2, slots=1).cached_tokens == 48


def test_a_conversation_reuses_its_earlier_answers_where_these_are_kept() -> None:
    core = ScriptedCore()
    for kept in (False, True):
        cache = TieredPrefixCache(core, slots=2, keep_output=kept)
        first = ask(cache, core, 0, 40, 5, 30, 1, slots=2)
        scheduler = Scheduler(core, cache=cache, first_slot=2)
        tokens = [*first.tokens, 7, 7, 7]
        second = scheduler.submit(Request(tokens=tuple(tokens), decoding=Decoding(max_tokens=2)), tokens)
        finish(scheduler)
        assert second.cached_tokens == (len(first.tokens) - 1 if kept else 45)
        cache.clear()


@pytest.mark.parametrize("state_bytes", [0, 100, 20_000])
def test_memory_is_counted_as_python_really_holds_it(state_bytes: int) -> None:
    random = np.random.default_rng(0)
    common = random.integers(0, 50_000, 5).tolist()
    tokens = [[*common, *random.integers(0, 50_000, 200).tolist()] for _ in range(300)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    memory = MemoryStates(10**9)
    for one in tokens:
        memory.put(packed(one), random.bytes(state_bytes))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held <= memory.held_bytes
    assert memory.held_bytes - held <= 700 * len(tokens)


# Files


def filled(folder: Path, *, capacity: int = 10**6) -> DiskStates:
    disk = DiskStates(folder, identity=OURS, capacity_bytes=capacity)
    for i in range(4):
        disk.put(packed([i] * 20), bytes([i]) * 500)
    return disk


def test_states_on_disk_survive_a_restart_in_their_order_of_use(tmp_path: Path) -> None:
    disk = filled(tmp_path)
    for i in range(4):  # the clock of files can be too coarse to tell writes apart
        os.utime(disk._path(packed([i] * 20)), ns=(i * 10**9, i * 10**9))
    disk.get(packed([0] * 20))
    again = DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6)
    assert len(again.shelf) == 4
    assert again.get(packed([2] * 20)) == bytes([2]) * 500
    size = again.held_bytes // 4
    smaller = DiskStates(tmp_path, identity=OURS, capacity_bytes=2 * size)
    assert set(smaller.shelf) == {packed([0] * 20), packed([2] * 20)}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_restarted_cache_answers_from_disk_what_was_only_in_cells_and_memory(tmp_path: Path) -> None:
    core = ScriptedCore()
    for memory, slots in ((None, 2), (MemoryStates(10**6), 0)):
        folder = tmp_path / str(slots)
        cache = TieredPrefixCache(core, slots=slots, memory=memory,
                                  disk=DiskStates(folder, identity=OURS, capacity_bytes=10**6))
        ask(cache, core, 0, 48, 2, 1, 1, slots=slots)
        cache.flush()
        cache.clear()
        again = TieredPrefixCache(core, disk=DiskStates(folder, identity=OURS, capacity_bytes=10**6))
        assert ask(again, core, 0, 48, 9, 4, 2).output == alone(request(0, 48, 9, 4, 2))
        assert again.counts.hits == {"disk": 1}


@pytest.mark.parametrize("other", [
    {"sha256": "b" * 64}, {"kv_type": "q8_0"}, {"flash_attention": "off"}, {"version": "2"}])
def test_states_of_another_model_or_kv_type_are_neither_used_nor_touched(other: dict[str, str], tmp_path: Path) -> None:
    filled(tmp_path)
    theirs = {"sha256": "a" * 64, "kv_type": "f16", "flash_attention": "on", "version": "1", **other}
    disk = DiskStates(tmp_path, identity=identity(**theirs), capacity_bytes=0)
    assert len(disk.shelf) == disk.held_bytes == 0
    assert disk.foreign == 4
    assert len(DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6).shelf) == 4


def test_a_state_file_of_another_model_under_our_name_is_refused(tmp_path: Path) -> None:
    ours = filled(tmp_path / "ours")
    theirs = DiskStates(tmp_path / "theirs", identity="another", capacity_bytes=10**6)
    theirs.put(packed([1] * 20), b"poison")
    next((tmp_path / "theirs").iterdir()).replace(ours._path(packed([1] * 20)))
    assert ours.get(packed([1] * 20)) is None
    assert packed([1] * 20) not in ours.shelf


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "gone", "renamed"])
def test_a_damaged_file_is_a_miss_and_the_run_goes_on(damage: str, running: bool, tmp_path: Path) -> None:
    core = ScriptedCore()
    first = TieredPrefixCache(core, disk=DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6))
    ask(first, core, 0, 48, 2, 1, 1)
    (file,) = tmp_path.iterdir()
    raw = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "renamed":
        file.write_bytes(raw.replace(packed([PREFIXES[0][3]]), packed([251]), 1))
    else:
        file.write_bytes({"flip": raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:], "truncate": raw[:-40], "empty": b""}[damage])
    cache = first if running else TieredPrefixCache(core, disk=DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6))
    job = ask(cache, core, 0, 48, 9, 4, 2)
    assert job.cached_tokens == 0
    assert job.output == alone(request(0, 48, 9, 4, 2))
    assert cache.disk is not None
    assert cache.disk.corrupt == (damage != "gone")
    assert ask(cache, core, 0, 48, 5, 4, 3).cached_tokens == 48, "the entry was made anew"


def test_a_full_disk_skips_the_entry_and_says_so_in_a_sentence(tmp_path: Path) -> None:
    core = ScriptedCore()
    cache = TieredPrefixCache(core, disk=DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        ask(cache, core, 0, 48, 2, 1, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cache.disk is not None
    assert cache.disk.unwritten == 1
    assert cache.disk.held_bytes == 0
    assert list(tmp_path.iterdir()) == []
    assert "could not be written" in cache.problems()[0]
    ask(cache, core, 0, 48, 2, 1, 1)
    assert ask(cache, core, 0, 48, 9, 1, 2).cached_tokens == 48


def test_the_remains_of_a_process_that_died_are_removed_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    (tmp_path / "x.partial-999999999").write_bytes(b"half")
    (tmp_path / f"y.partial-{os.getpid()}").write_bytes(b"half")
    DiskStates(tmp_path, identity=OURS, capacity_bytes=10**6)
    assert [file.name[0] for file in tmp_path.iterdir()] == ["y"]


def test_what_cannot_work_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot hold cached states .*choose another"):
        DiskStates(tmp_path / "file", identity=OURS, capacity_bytes=1)
    with pytest.raises(LabError, match="negative"):
        DiskStates(tmp_path, identity=OURS, capacity_bytes=-1)
    with pytest.raises(LabError, match="negative"):
        MemoryStates(-1)
    core = ScriptedCore(sequences=4)
    with pytest.raises(LabError, match="leaves none of 4 sequences"):
        TieredPrefixCache(core, slots=4)
    core.sequence_tokens = 64
    with pytest.raises(LabError, match="unified"):
        TieredPrefixCache(core, slots=1)
    own = ScriptedCore()
    small = TieredPrefixCache(own, memory=MemoryStates(100))
    ask(small, own, 0, 48, 2, 1, 1)
    assert small.problems() == ["1 states of up to 0.0 MB did not fit memory; give it more than its 0.0 MB."]


# The real engine


@pytest.fixture(scope="module")
def weights() -> Iterator[Weights]:
    opened = Weights(find("smollm2-135m").path)
    yield opened
    opened.close()


def test_on_the_real_engine_no_tier_changes_a_token(weights: Weights, tmp_path: Path) -> None:
    # Flash attention on and fewer than 64 rows a step: then a position has the same bits in any batch.
    shared = weights.tokenize("You answer questions about animals, briefly and truthfully. " * 6)[:60]
    asked = [[*shared, *weights.tokenize(q)] for q in (" What does a cow eat?", " Can a penguin fly?", " Who barks?")]
    core = Context(weights, context_tokens=768, threads=1, sequences=4, flash_attention="on")

    def answers(cache: TieredPrefixCache | None, slots: int = 0) -> list[Job]:
        core.clear()
        jobs = []
        scheduler = Scheduler(core, cache=cache, first_slot=slots, token_budget=32)
        for tokens in asked:
            jobs.append(scheduler.submit(Request(tokens=tuple(tokens), decoding=Decoding(max_tokens=8, ignore_eos=True)), tokens))
            finish(scheduler)
        return jobs

    expected = [job.output for job in answers(None)]
    disk = DiskStates(tmp_path, identity=OURS, capacity_bytes=10**9)
    for cache, slots in ((TieredPrefixCache(core, slots=2), 2), (TieredPrefixCache(core, memory=MemoryStates(10**9)), 0),
                         (TieredPrefixCache(core, disk=disk), 0)):
        jobs = answers(cache, slots)
        assert [job.output for job in jobs] == expected
        assert [job.cached_tokens for job in jobs[1:]] == [60, 60]
    state = disk.get(next(iter(disk.shelf)))
    assert state is not None
    core.clear()
    with pytest.raises(LabError, match="does not fit this context"):
        core.restore(0, state[: len(state) // 2])
    core.close()


# The experiment


class SlowSave(ScriptedCore):
    """Saving a state takes `save_s` seconds of the virtual clock, restoring one a tenth of that."""

    save_s = 0.01

    def save(self, sequence: int) -> bytes:
        self.clock_s += self.save_s
        return super().save(sequence)

    def restore(self, sequence: int, state: bytes) -> None:
        self.clock_s += self.save_s / 10
        super().restore(sequence, state)


def passed(save_s: float, cached: bool, questions: int = 6) -> Pass:
    core = SlowSave(context_tokens=400, sequences=1)
    core.save_s = save_s
    cache = TieredPrefixCache(core, memory=MemoryStates(10**6), min_tokens=16) if cached else None
    scheduler = Scheduler(core, cache=cache)
    with machine.Watch() as watch:
        jobs = closed_loop(scheduler, [request(0, 48, 4 + i, 2, 2 * i) for i in range(questions)], 1)
    return Pass(generations=tuple(job.generation() for job in jobs), cache=cache, watched=watch.result, preemptions=0)


@pytest.mark.parametrize("save_s", [0.0, 0.01, 5.0])
def test_the_time_to_keep_entries_is_set_against_what_they_save(save_s: float) -> None:
    cold, warm = passed(save_s, False), passed(save_s, True)
    assert warm.cache is not None
    assert warm.cache.counts.kept_s == pytest.approx(save_s)
    assert warm.cache.counts.spent_s == pytest.approx(save_s + 5 * save_s / 10)
    found = saved([warm, warm], [cold, cold])
    first, before = (sum(speed.ttft_s(g) for g in one.generations) for one in (warm, cold))
    share = found["waiting_saved_share"]
    assert share.value == pytest.approx(1 - (first + save_s) / before)  # type: ignore[union-attr]
    assert (share.value > 0) == (save_s < 5)  # type: ignore[union-attr]
    assert found["keep_per_request_s"] == pytest.approx(save_s / 6)
    assert found["warm_requests"] == 2 * 5


def test_rounds_of_the_same_requests_make_no_saving_more_certain() -> None:
    cold, warm = passed(0.01, False), passed(0.01, True)
    once, often = (saved([warm] * n, [cold] * n) for n in (1, 5))
    for name in ("waiting_saved_share", "warm_first_token_s", "warm_to_cold_share"):
        a, b = once[name], often[name]
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))  # type: ignore[union-attr]
    assert math.isnan(saved([passed(0.01, True, 2)], [passed(0.01, False, 2)])["waiting_saved_share"].low)  # type: ignore[union-attr]


def test_caches_and_no_cache_take_turns_and_every_round_starts_empty() -> None:
    order: list[str] = []

    class Noted(PromptCache):
        def _pass(self, context: Any, cache: TieredPrefixCache | None, work: Any, title: str) -> Pass:
            order.append(title.rsplit(", ", 1)[1])
            assert cache is None or cache.counts.kept == 0
            return super()._pass(context, cache, work, title)

    config = Noted(tiers=("cells", "memory"), workloads=("system",), prefix_tokens=(48,), reuse_rates=(1.0,), capacities_mb=(1.0,),
                   requests=3, repeats=3, min_tokens=16)
    core = ScriptedCore(context_tokens=600, sequences=1 + MOST_SLOTS)
    work = [request(0, 48, 4 + i, 2, 2 * i) for i in range(3)]
    made = config._measured(core, [p.measured for p in config.points()], work, 1.0, "name")  # type: ignore[arg-type]
    assert order == ["none", "cells 1 MB", "memory 1 MB", "memory 1 MB", "cells 1 MB", "none", "none", "cells 1 MB", "memory 1 MB"]
    for point, trial in made.items():
        assert len(trial.generations) == 9
        if point.tier != "none":
            assert (trial.measures["warm_requests"], trial.measures["differing_outputs"]) == (6, 0)


@pytest.mark.parametrize("fields", [{"prefix_tokens": (64, 9000)}, {"output_tokens": 9000}])
def test_requests_that_do_not_fit_the_model_are_refused_before_any_context(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a context was opened before the refusal")

    monkeypatch.setattr(Context, "__init__", never)
    config = PromptCache(threads=1, **fields)
    for refused in (config.check, lambda: next(config.run())):
        with pytest.raises(LabError, match=r"prompt of [\d,]+ tokens and [\d,]+ output tokens do not fit the context of 8,192"):
            refused()


def caches(share: float, low: float, differing: float = 0.0) -> pd.DataFrame:
    row = {"params.workload": "system", "params.prefix_tokens": 64, "params.reuse_rate": 1.0, "params.capacity_mb": 8.0,
           "params.factor": "prefix_tokens", "params.base": "yes", "metrics.break_even_tokens": 3.0}
    return pd.DataFrame([{**row, "name": "none", "params.tier": "none"},
                         {**row, "name": "cells", "params.tier": "cells", "metrics.waiting_saved_share": share,
                          "metrics.waiting_saved_share_low": low, "metrics.prompt_reused_share": 0.5,
                          "metrics.differing_outputs": differing}])


def test_the_verdict_claims_no_saving_it_does_not_see_and_no_cause_it_has_not_tested() -> None:
    config = PromptCache(requests=10, repeats=2)
    good = config.verdict(caches(0.5, 0.3, 4))
    assert good.chosen == "cells" and good.caveats == ()
    assert any("4 of 20 answers" in line and "possible cause, not tested" in line for line in good.why)
    unsure = config.verdict(caches(0.5, -0.1))
    assert unsure.chosen == "cells" and any("not wholly above zero" in line for line in unsure.caveats)
    assert config.verdict(caches(-0.2, -0.5)).chosen is None


@pytest.mark.parametrize("fields", [
    {"tiers": ("tape",)}, {"tiers": ()}, {"workloads": ("poems",)}, {"prefix_tokens": ()}, {"prefix_tokens": (0,)},
    {"capacities_mb": (-1.0,)}, {"reuse_rates": (1.2,)}, {"requests": 0}, {"groups": 0}, {"repeats": 0}])
def test_a_config_that_cannot_run_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(LabError):
        PromptCache(**fields)


def test_one_factor_is_varied_at_a_time_and_the_grid_has_every_combination() -> None:
    lists = {"prefix_tokens": (8, 4), "reuse_rates": (0.5, 1.0), "capacities_mb": (2.0, 1.0)}
    base = (8, 0.5, 2.0)
    for point in PromptCache(**lists).points():
        found = (point.prefix_tokens, point.reuse_rate, point.capacity_mb)
        assert sum(a != b for a, b in zip(found, base, strict=True)) <= 1
    every = {(p.workload, p.tier, p.prefix_tokens, p.reuse_rate, p.capacity_mb) for p in PromptCache(**lists, grid=True).points()}
    assert len(every) == 2 * 4 * 2 * 2 * 2
    assert [p.tier for p in PromptCache(prefix_tokens=(8,), reuse_rates=(1.0,), capacities_mb=(1.0,), tiers=("disk",),
                                        workloads=("system",)).points()] == ["none", "disk"]


def test_the_experiment_compares_every_tier_with_the_same_requests_cold(module_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab import running

    monkeypatch.setenv("LAB_HOME", str(module_store))
    config = PromptCache(workloads=("few_shot",), groups=1, prefix_tokens=(40,), reuse_rates=(1.0,), capacities_mb=(8.0, 0.1),
                         requests=3, repeats=1, output_tokens=2, threads=1)
    done = running.run(config)
    trials = done.trials
    assert len(trials) == config.size() == 8
    cached = trials[(trials["params.tier"] != "none") & (trials["params.capacity_mb"] == 8)]
    assert (cached["metrics.warm_requests"] == 2).all()
    assert (cached["metrics.warm_to_cold_share"] < 1).all()
    assert (trials[trials["params.tier"] == "none"]["metrics.warm_requests"].isna()).all()
    small = trials[(trials["params.tier"] == "memory") & (trials["params.capacity_mb"] < 1)].iloc[0]
    assert small["metrics.warm_requests"] == 0
    assert small["metrics.cache_memory_bytes"] == 0
    assert "did not fit memory" in small["tags.lab.note.caveat"]
    assert done.verdict is not None
    assert done.verdict.chosen in set(cached["name"])
    assert str(done.verdict.chosen) in done.verdict.decision
    for chart in config.charts:
        assert {chart.x, chart.y, chart.series} <= set(trials)
