"""``celery -A tests.integration.traced_worker``: our worker, whose spans go to a file as JSON."""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from hermes_tasks.app import worker_app


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


_file = Path(os.environ["TRACED_SPANS"]).open("a", buffering=1)  # noqa: SIM115 - for ever
_provider = TracerProvider()
_provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=_file, formatter=_line)))
trace.set_tracer_provider(_provider)

app = worker_app()
