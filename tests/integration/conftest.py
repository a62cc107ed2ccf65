"""A broker and a stand-in for Honcho that packages of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hermes_tasks.testing.honcho import HonchoServer
from hermes_tasks.testing.servers import EmbeddedValkey, Server


@pytest.fixture(scope="package")
def broker() -> Iterator[Server]:
    """A broker that lives through all of them: use a prefix of your own."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="package")
def honcho_of_package() -> Iterator[HonchoServer]:
    """The stand-in, whatever state the last test left it in."""
    with HonchoServer() as server:
        yield server


@pytest.fixture
def honcho(honcho_of_package: HonchoServer) -> Iterator[HonchoServer]:
    """The stand-in, well before and after the test."""
    yield honcho_of_package
    try:
        honcho_of_package.control(reset=True)
    except OSError:
        honcho_of_package.restart()
