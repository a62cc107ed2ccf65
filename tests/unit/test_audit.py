"""The audit counts what the demo and the chaos tests stand on: it must see every fault."""

from __future__ import annotations

import pytest

from hermes_tasks.testing.audit import Audit, audit, audit_session


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("abc", Audit(sent=3, written=3)),
        ("", Audit(sent=3, lost=3)),
        ("ac", Audit(sent=3, written=2, lost=1)),
        ("abbc", Audit(sent=3, written=3, twice=1)),
        ("acb", Audit(sent=3, written=3, out_of_order=1)),
        ("cab", Audit(sent=3, written=3, out_of_order=2)),
        ("abcab", Audit(sent=3, written=3, twice=2)),
        ("abcx", Audit(sent=3, written=3, unknown=1)),
    ],
)
def test_every_fault_is_counted(stored: str, expected: Audit) -> None:
    assert audit_session("abc", stored) == expected
    assert expected.is_clean == (stored == "abc")


def test_sessions_add_up_and_a_session_nobody_sent_is_not_overlooked() -> None:
    result = audit({"s": ["a"], "t": ["b"]}, {"s": ["a"], "u": ["c"]})
    assert result == Audit(sent=2, written=1, lost=1, unknown=1)
