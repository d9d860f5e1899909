"""The order of files in a run: whichever process of `make test` has done its files takes the next one.

Files without slow tests come last, so that all processes end at about the same time. Files with full-size tests, which
take turns, lie apart, so that no process stands still until another has done its own.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

APART = 8  # So many files lie between two with full-size tests.


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts them by their files; within each they stay as they are."""
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    files = sorted(by_file.values(), key=lambda tests: (not _have("slow", tests), -len(tests)))
    order = [tests for tests in files if not _have("full_size", tests)]
    for place, tests in enumerate(tests for tests in files if _have("full_size", tests)):
        order.insert(place * (APART + 1), tests)
    items[:] = [item for tests in order for item in tests]


def _have(mark: str, tests: Sequence[pytest.Item]) -> bool:
    return any(item.get_closest_marker(mark) for item in tests)
