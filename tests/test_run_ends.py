"""How a run over several processes ends early, and how full-size tests take turns."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from full_size import CLEAR_REFS
from waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

HANGS = """
    import pathlib, time
    def test_hangs():
        pathlib.Path("hangs").touch()
        time.sleep(1e6)
"""
# The process that the others report to hears of a test later than it begins.
TELLS = """
    import os, pathlib, pytest
    pytest_plugins = ["run_ends", "full_size"]
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logstart():
        if "PYTEST_XDIST_WORKER" not in os.environ:
            pathlib.Path("told").touch()
"""
DIES = """
    import os, pathlib, signal, time
    def test_dies():
        while not pathlib.Path("hangs").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
"""
TAKES_TURNS = """
    import pytest, time
    @pytest.mark.full_size(gigabytes=0.1)
    @pytest.mark.parametrize("number", range(20))
    def test_turns(number):
        with open("log", "ab", buffering=0) as log:
            log.write(b"begins ")
            time.sleep(0.01)
            log.write(b"ends ")
"""
MEMORY = """
    import pytest
    @pytest.mark.full_size(gigabytes=0.1)
    def test_takes_more():
        b"x" * 300_000_000
    @pytest.mark.full_size(gigabytes=0.5)
    def test_takes_as_much():
        b"x" * 300_000_000
    @pytest.mark.full_size(gigabytes=1e6)
    def test_needs_more_than_there_is():
        pass
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    """A command that runs tests as the suite's are run, with none of the plugins that take long to import."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("TMPDIR", str(pytester.path))  # So that its lock is not the one of the run that it is in.
    # Nothing of a run over several processes that it may itself be in.
    for name in ("CI", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini("[pytest]\nmarkers = full_size\n")
    pytester.makeconftest('pytest_plugins = ["run_ends", "full_size"]')
    flags = "-p xdist.plugin --max-worker-restart=0 -n 2 --dist loadfile"
    return [sys.executable, "-m", "pytest", *flags.split()]


def finish(command: list[str | Path]) -> tuple[int, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S)
    return done.returncode, done.stdout


def test_a_process_that_dies_ends_the_run(pytester: pytest.Pytester, run: list[str | Path]):
    """At once, although another test hangs; the test that it died in is named, and the run has failed."""
    pytester.makepyfile(test_a=DIES, test_b=HANGS)
    code, text = finish(run)
    assert code == 1
    assert "FAILED test_a.py::test_dies" in text
    assert "1 failed in" in text


def test_a_run_that_is_ended_says_what_was_running(pytester: pytest.Pytester, run: list[str | Path]):
    """By SIGTERM, as a watchdog would."""
    pytester.makepyfile(test_b=HANGS)
    pytester.makeconftest(TELLS)
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until((pytester.path / "told").exists)
        finally:
            process.send_signal(signal.SIGTERM)
            text = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 1
    assert "ended while running test_b.py::test_hangs" in text


def test_full_size_tests_take_turns(pytester: pytest.Pytester, run: list[str | Path]):
    """Also over several processes."""
    pytester.makepyfile(test_a=TAKES_TURNS, test_b=TAKES_TURNS)
    code, text = finish(run)
    assert code == 0, text
    assert (pytester.path / "log").read_text() == "begins ends " * 40


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="peaks are read from Linux's /proc")
def test_full_size_tests_keep_to_the_memory_that_they_say(pytester: pytest.Pytester, run: list[str | Path]):
    """More is a failure, less is printed; what the machine does not have is not begun."""
    pytester.makepyfile(MEMORY)
    code, text = finish(run)
    assert code == 1
    assert "AssertionError: took 0.3 GB of memory, but its mark says 0.1" in text
    assert text.count("0.3 of 0.5 GB") == 1
    assert "1 failed, 1 passed, 1 skipped" in text
