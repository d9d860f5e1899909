"""Fixtures of the attacks. Files that need other settings make a stack of their own by `stack.running`."""

from collections.abc import Iterator

import pytest

from adversarial.good_caller import GoodCaller
from adversarial.stack import Stack, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server and a gateway with small settings, which the tests of a file share."""
    with running(tmp_path_factory.mktemp("stack")) as both:
        yield both


@pytest.fixture
def good_caller(stack: Stack) -> Iterator[GoodCaller]:
    """Somebody who is served at first, and has to be served whatever the test does."""
    with GoodCaller(stack) as caller:
        caller.is_served(1)
        yield caller
