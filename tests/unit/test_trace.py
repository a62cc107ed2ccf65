"""What is told of a message that is given up."""

from __future__ import annotations

import logging

import pytest

from hermes_tasks.transport.trace import failures, given_up, log_given_up

TRACE = "1000 503\n1500 held: open\n2000 no answer within 5.0 s\n2500 held: queue\n"


def test_a_wait_is_no_failure() -> None:
    assert failures(TRACE) == ["503", "no answer within 5.0 s"]
    assert failures("") == failures("1000 held: open\n") == []


def test_the_first_failure_is_the_cause_of_the_last() -> None:
    error = given_up(TRACE)
    assert (str(error), str(error.__cause__)) == ("no answer within 5.0 s", "503")


def test_what_ended_it_is_the_last_failure() -> None:
    error = given_up(TRACE, "refused: 422")
    assert (str(error), str(error.__cause__)) == ("refused: 422", "503")


@pytest.mark.parametrize("trace", ["", "1000 held: open\n", "1000 refused: 422\n"])
def test_a_single_failure_has_no_cause(trace: str) -> None:
    error = given_up(trace, "refused: 422")
    assert (str(error), error.__cause__) == ("refused: 422", None)
    assert str(given_up(trace))


def test_it_is_one_entry_of_the_log_with_the_whole_trace_and_the_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_given_up(logging.getLogger("test"), "m", "s", TRACE)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.splitlines() == [
        "Message m of session s is a dead letter",
        "  1970-01-01T00:00:01.000+00:00 503",
        "  1970-01-01T00:00:01.500+00:00 held: open",
        "  1970-01-01T00:00:02.000+00:00 no answer within 5.0 s",
        "  1970-01-01T00:00:02.500+00:00 held: queue",
    ]
    assert "direct cause" in caplog.text
