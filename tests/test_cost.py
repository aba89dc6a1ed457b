"""What requests cost: as a price list by hand says, with cached tokens at their own price, and unknown where nobody knows."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.ops import cost
from lab.ops.requests_schema import LogRecord, frame
from lab.records import Generation, Request, Usage

BOOK = """\
prices: test
version: 3
machines:
  box: {usd_per_hour: 3.6}
models:
  bought: {provider: someone, input_usd: 2.0, cached_input_usd: 0.5, output_usd: 8.0}
  plain: {input_usd: 1.0, output_usd: 4.0}
  own: {machine: box}
"""


def generation(*, tokens: int = 0, ended_s: float = 12.0, error: str | None = None, started_s: float | None = None,
               **counts: int) -> Generation:
    at = tuple(10.5 + i for i in range(tokens))
    return Generation(request=Request(id="r", prompt="?"), tokens_at_s=at, sent_s=10.0, ended_s=ended_s, started_s=started_s,
                      usage=Usage(**counts), error=error, finish_reason="error" if error else "stop")


def record(i: int, **fields: object) -> LogRecord:
    return LogRecord(**{"time_s": 86_400.0 * 20_000 + i, "request_id": f"r{i}", "release": "a 1", "model": "bought",  # type: ignore[arg-type]
                        "prompt_tokens": 1000.0, "cached_tokens": 200.0, "output_tokens": 100.0, "e2e_s": 2.0, **fields})


def test_a_request_costs_what_the_price_list_says_by_hand() -> None:
    book = cost.parse(BOOK)
    # 800 fresh tokens at 2, 200 cached at 0.5, 100 of output at 8 USD a million.
    assert book.price("bought").cost_usd(prompt_tokens=1000, cached_tokens=200, output_tokens=100) == pytest.approx(
        (800 * 2 + 200 * 0.5 + 100 * 8) / 1e6)
    assert book.cost_usd("bought", generation(prompt_tokens=1000, cached_tokens=200, output_tokens=100)) == pytest.approx(0.0025)
    assert book.priced(frame([record(0)])).tolist() == pytest.approx([0.0025])
    # Without a price of their own cached tokens cost the full one, and an unknown number of them counts as none.
    assert book.price("plain").cost_usd(prompt_tokens=1000, cached_tokens=200, output_tokens=0) == pytest.approx(0.001)
    assert book.price("bought").cost_usd(prompt_tokens=1000, cached_tokens=math.nan, output_tokens=0) == pytest.approx(0.002)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5))
@settings(max_examples=80, deadline=None)
def test_caching_never_costs_more_and_no_cost_is_negative(prompt: int, cached: int, output: int) -> None:
    price = cost.parse(BOOK).price("bought")
    with_cache, without = (price.cost_usd(prompt_tokens=prompt, cached_tokens=n, output_tokens=output) for n in (cached, 0))
    assert 0 <= with_cache <= without


def test_a_machine_costs_its_time_shared_by_what_it_served_at_once() -> None:
    book = cost.parse(BOOK)
    assert book.cost_usd("own", generation(tokens=2)) == pytest.approx(1.5 * 3.6 / 3600)  # until the last token
    assert book.cost_usd("own", generation(tokens=2), running=3) == pytest.approx(1.5 * 3.6 / 3600 / 3)
    assert book.cost_usd("own", generation(tokens=2, started_s=10.25)) == pytest.approx(1.25 * 3.6 / 3600)  # not its wait
    assert book.cost_usd("own", generation(tokens=1, error="broke off", ended_s=14.0)) == pytest.approx(4 * 3.6 / 3600)


def test_what_a_server_bills_is_paid_and_what_was_counted_where_it_does_not_say() -> None:
    book = cost.parse(BOOK)
    assert book.cost_usd("plain", generation(tokens=3, prompt_tokens=0, output_tokens=5)) == pytest.approx(20 / 1e6)
    assert book.cost_usd("plain", generation(tokens=3, prompt_tokens=0)) == pytest.approx(12 / 1e6)
    assert book.cost_usd("plain", generation(tokens=1, prompt_tokens=10, error="broke off")) == pytest.approx(14 / 1e6)


def test_what_nobody_knows_is_not_a_number_and_never_free() -> None:
    book = cost.parse(BOOK)
    assert math.isnan(book.cost_usd("stranger", generation(tokens=1, prompt_tokens=1)))
    assert math.isnan(book.cost_usd("bought", generation(tokens=1)))  # its prompt was not counted
    priced = book.priced(frame([record(0, model="stranger"), record(1, output_tokens=math.nan), record(2, model="own", e2e_s=math.nan)]))
    assert priced.isna().all()
    assert book.unknown(["bought", "stranger", "other", "stranger"]) == ["other", "stranger"]
    with pytest.raises(LabError, match="does not know the model 'stranger'; add it beside bought, plain, own"):
        book.price("stranger")


def test_days_are_added_up_and_held_against_the_day_before() -> None:
    rows = [record(i, cost_usd=0.01, user_hash=f"u{i % 7}") for i in range(70)]
    rows += [record(86_400 + i, cost_usd=0.02, cached_tokens=math.nan if i % 2 else 500.0) for i in range(30)]
    rows += [record(86_400 + 50, cost_usd=math.nan)]
    found = cost.trend(frame(reversed(rows)))
    assert found["requests"].tolist() == [70, 31] and found["unpriced"].tolist() == [0, 1]
    assert found["cost_usd"].tolist() == pytest.approx([0.7, 0.6])
    assert found["cost_per_request_usd"].tolist() == pytest.approx([0.01, 0.02])
    assert found["change_share"].tolist()[1] == pytest.approx(1.0) and math.isnan(found["change_share"][0])
    # The share is that of the prompts of which it is known.
    assert found["cached_share"].tolist() == pytest.approx([0.2, (15 * 500 + 200) / 16_000])


def test_a_day_of_which_nothing_is_known_costs_an_unknown_amount_and_no_day_is_an_empty_table() -> None:
    row = cost.trend(frame([record(0, prompt_tokens=math.nan, cached_tokens=math.nan, output_tokens=math.nan)])).iloc[0]
    assert row[["cost_usd", "cost_per_request_usd", "prompt_tokens", "cached_tokens", "output_tokens", "cached_share"]].isna().all()
    empty = cost.trend(pd.DataFrame())
    assert len(empty) == 0 and {"time_s", "cost_usd", "change_share"} <= set(empty)
    with pytest.raises(LabError, match="more than 0 seconds"):
        cost.trend(frame([record(0)]), every_s=0)


def test_one_user_with_many_requests_widens_the_interval() -> None:
    alone = cost.trend(frame([record(i, cost_usd=0.01 + 0.01 * (i % 10 == 0)) for i in range(200)])).iloc[0]
    shared = cost.trend(frame([record(i, cost_usd=0.01 + 0.01 * (i % 10 == 0), user_hash=f"u{i % 10}") for i in range(200)])).iloc[0]
    width = "cost_per_request_usd_high", "cost_per_request_usd_low"
    assert shared[width[0]] - shared[width[1]] > 2 * (alone[width[0]] - alone[width[1]])


def test_the_shipped_price_book_is_read_and_says_which_it_is() -> None:
    book = cost.load()
    assert book.version >= 1 and len(book.sha256) == 64 and book.prices


@pytest.mark.parametrize(("old", "new", "error"), [
    ("version: 3", "version: 0", "line 2.*count from 1"), ("usd_per_hour: 3.6", "usd_per_hour: -1", "give an amount from 0 up"),
    ("machine: box", "machine: barn", "there is no machine 'barn'; the machines are box"),
    ("machine: box", "machine: box, input_usd: 1.0", "by its machine or by its tokens"),
    ("input_usd: 1.0, ", "", "'plain' has no 'input_usd'"), ("output_usd: 4.0", "output_usd: .nan", "an amount from 0 up"),
    ("output_usd: 4.0", "output_usd: much", "output_usd"), ("prices: test", "price: test", "price"),
    ("prices: test", "prices: &a test\nb: *a", "which a price book cannot have"),
])
def test_an_error_in_the_price_book_is_one_sentence_with_its_place(old: str, new: str, error: str) -> None:
    with pytest.raises(LabError, match=error):
        cost.parse(BOOK.replace(old, new), "prices.yaml")


def test_a_price_that_yaml_takes_for_text_is_a_number() -> None:
    assert cost.parse(BOOK.replace("output_usd: 4.0", "output_usd: 1e-7"), "prices.yaml").prices["plain"].output_usd == 1e-7


def test_a_price_book_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"missing\.yaml"):
        cost.load(tmp_path / "missing.yaml")
