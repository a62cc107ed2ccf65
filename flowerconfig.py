"""Flower's configuration: a file of this name in the directory that Flower is started in.

``celery -A hermes_tasks flower`` adds the Sessions tab by itself; with this file Flower also has it
when it is started for another Celery application. Flower's own options can be set here, too.
"""

from __future__ import annotations

from hermes_tasks.ops import flower

flower.install()

#: Let only these in. Without it, or ``auth``, everybody who reaches the port sees the pages, and
#: ``/api`` is closed.
# basic_auth = ["operator:password"]

#: Behind a proxy that serves it as https://…/flower/
# url_prefix = "flower"
# xheaders = True
