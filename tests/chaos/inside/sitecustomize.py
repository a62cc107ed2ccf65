"""Python runs this when it starts: what a test changes inside a process of the product."""

from __future__ import annotations

import os

if "CHAOS_CLOCK" in os.environ:
    from tests.chaos.clock import follow

    follow(os.environ["CHAOS_CLOCK"])

if "CHAOS_BROKEN" in os.environ:
    from tests.chaos.broken import turn

    turn(os.environ["CHAOS_BROKEN"])
