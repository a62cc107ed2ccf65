"""The rows of an outbox by session, beside a plain list of them."""

from __future__ import annotations

import random

import pytest

from hermes_tasks.gateway import numbers
from hermes_tasks.gateway.numbers import Numbers


def test_it_says_what_a_plain_list_of_the_rows_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given so little room that what is gone is swept out all the time
    monkeypatch.setattr(numbers, "SWEEP_AT", 5)
    chance = random.Random(1)
    rows: list[tuple[str, int]] = []
    kept = Numbers()
    for number in range(1, 500):
        # If rows come, go one by one, and go together with all that are older
        session = chance.choice("abc")
        rows.append((session, number))
        kept.add(session, number)
        if chance.random() < 0.2:
            gone = chance.choice(rows)
            rows.remove(gone)
            kept.remove(*gone)
        if chance.random() < 0.2:
            last = chance.randint(number - 20, number)
            rows = [row for row in rows if row[1] > last]
            kept.forget_up_to(last)
        # I expect it to know what is there
        for session in "abc":
            there = [one for name, one in rows if name == session]
            above, most = chance.randint(0, number), chance.randint(0, number)
            assert kept.latest(session) == (there[-1] if there else None)
            assert kept.up_to(session, most) == [one for one in there if one <= most]
            assert kept.count(session, above, most) == sum(above < one <= most for one in there)
    # And to hold little more than twice that
    assert sum(map(len, kept._by_session.values())) <= max(5, 2 * len(rows)) + 20
