"""Tracing that is not there costs nothing, and tracing that is broken breaks nothing."""

from __future__ import annotations

import subprocess
import sys
import timeit
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from hermes_tasks import tracing

CARRIER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def test_opentelemetry_is_not_imported_by_us() -> None:
    code = "import sys, hermes_tasks.tracing; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "opentelemetry" not in done.stdout


def test_without_a_provider_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    with tracing.accepting("sync_turn") as traced:
        assert traced is tracing.NOTHING
        assert traced.carrier() == {}
    assert tracing.publishing(CARRIER, "id", "s", resent=False) is tracing.NOTHING
    assert tracing.writing("s", [CARRIER], again=False) is tracing.NOTHING


def test_without_a_provider_it_takes_a_microsecond_or_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)

    def traced() -> None:
        with tracing.accepting("sync_turn") as traced:
            traced.carrier()

    assert min(timeit.repeat(traced, number=1_000, repeat=20)) < 1_000 * 5e-6


class Broken:
    """A provider, or anything of one, that fails whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("broken")


class HalfBroken(TracerProvider):
    """A provider whose spans fail."""

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        tracer = super().get_tracer("broken")

        class Spans:
            def start_span(self, *args: Any, **options: Any) -> Any:
                span: Any = tracer.start_span(*args, **options)
                span.end = span.set_attribute = span.set_status = Broken().__getattr__
                return span

        return Spans()


@pytest.mark.parametrize("provider", [Broken(), HalfBroken()], ids=["provider", "spans"])
def test_what_is_broken_in_the_tracing_stays_there(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with tracing.accepting("sync_turn") as traced:
        traced.set("hermes_tasks.messages", 1)
        traced.carrier()
    with pytest.raises(ValueError, match="ours"), tracing.writing("s", [CARRIER], again=False):
        raise ValueError("ours")


def test_a_context_that_is_none_is_left_out() -> None:
    assert tracing.carried({"traceparent": "00-1", "baggage": "x" * 2_000, "n": 1}) == {
        "traceparent": "00-1"
    }
    assert tracing.carried("traceparent") == {}
    assert tracing.carried(None) == {}
