"""``hermes-tasks exporter``: the metrics of a deployment for Prometheus."""

from __future__ import annotations

import signal
import threading

import click

from hermes_tasks.config import Settings

PORT = 9780


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=PORT,
    show_default=True,
    help="TCP port; 0: a free one.",
)
def exporter(host: str, port: int) -> None:
    """Serve the metrics of the deployment for Prometheus, until SIGTERM or Ctrl-C.

    One is enough for all workers and gateways: every number is in Redis, and a scrape is one read
    of it. While Redis does not answer there is `hermes_tasks_up 0` alone. Deadlines follow
    from the settings of the time-outs: give it those of the workers.

    \b
    Exit status:
      0  told to stop
      2  it cannot listen there, or a setting cannot be used
    """
    from hermes_tasks.app import make_app
    from hermes_tasks.gate import Policy
    from hermes_tasks.ops.exporter import serve
    from hermes_tasks.ops.overview import read_overview
    from hermes_tasks.ops.view import View

    settings = Settings.load()
    policy = Policy.from_settings(settings)
    view = View(make_app(settings, set_as_current=False), settings.safe_broker_url)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    port, stop = serve(lambda: view.ask(lambda store: read_overview(store, policy)), host, port)
    click.echo(f"metrics: http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
    try:
        stopped.wait()
    finally:
        stop()
        view.close()
