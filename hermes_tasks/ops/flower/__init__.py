"""A **Sessions** tab in Flower: is memory written, and if not, why not and since when.

``celery -A hermes_tasks flower`` has it without being told. For a Celery application of your own,
put this into the ``flowerconfig.py`` of the directory that Flower is started in (or into the file
that ``--conf`` names)::

    from hermes_tasks.ops import flower

    flower.install()

Flower has no plug-ins. Its routes and settings are module-level objects that ``flower.app`` reads
when the server is built, and this is done before that. The pages are served by Flower, behind
whatever login it has, under its ``--url-prefix``.

========================  ==========================================================================
``/sessions``             the gates, the last hour, the sessions that lag most, dead letters
``/session?id=…``         one session: its queued turns, what its oldest went through, recent turns
``/api/sessions``         what the first page shows, as JSON, under the rules of Flower's API
``/api/session?id=…``     what the second one shows
``/metrics``              Flower's own, and those of the deployment, for Prometheus
========================  ==========================================================================
"""

from __future__ import annotations

from hermes_tasks.errors import MissingExtra

__all__ = ["install"]


def install() -> None:
    """Add the tab to the Flower that this process is going to start. Twice is as good as once.

    Raises:
        MissingExtra: Flower is not installed.
    """
    try:
        import flower.urls
    except ImportError:
        raise MissingExtra("Flower is not installed: pip install 'hermes-tasks[flower]'") from None
    from hermes_tasks.ops.flower.routes import INSTEAD, ROUTES
    from hermes_tasks.ops.flower.templates import TabLoader

    settings = flower.urls.settings
    if isinstance(settings.get("template_loader"), TabLoader):
        return
    settings["template_loader"] = TabLoader(settings["template_path"])
    flower.urls.handlers[:0] = INSTEAD
    # The last route of Flower's catches everything.
    flower.urls.handlers[-1:-1] = ROUTES
