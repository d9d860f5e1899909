"""How a run over several processes ends early: at once, and with the names of the tests that were running."""

import signal
from types import FrameType

import psutil
import pytest


class RunEnds:
    """Lives in the process that the others report to."""

    def __init__(self) -> None:
        self._running: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running.add(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.discard(nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A process that died took its test with it: what others still had to do would only hide that."""
        if report.when == "???":  # As pytest-xdist reports it.
            self._end(str(report.longrepr))

    def on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        """Whoever ends a run that takes too long learns what took it."""
        self._end(f"ended while running {', '.join(sorted(self._running)) or 'no test'}")

    def _end(self, reason: str) -> None:
        # With the servers that tests have started.
        for process in psutil.Process().children(recursive=True):
            process.kill()
        pytest.exit(reason, returncode=1)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Registers it where there are several processes."""
    if session.config.pluginmanager.hasplugin("dsession"):
        ends = RunEnds()
        session.config.pluginmanager.register(ends)
        signal.signal(signal.SIGTERM, ends.on_sigterm)
