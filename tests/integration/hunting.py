"""Hunts that a seed alone decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis.internal.conjecture.providers import HypothesisProvider


@contextmanager
def seed_decides() -> Iterator[None]:
    """What hypothesis draws meanwhile depends on its seed only.

    Now and then it draws a constant that it has read in the modules that are loaded: a seed known
    to find something would find something else after an edit anywhere, and in another order of
    tests. No setting turns that off.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HypothesisProvider, "_maybe_draw_constant", lambda *_, **__: None)
        yield
