"""`cutout models`, `status` and `health` against the real server."""

import json

import pytest
from client_fixtures import cutout
from conftest import RunningServer
from cutout_client.cli import main


@pytest.mark.slow
def test_models(server: RunningServer) -> None:
    """Models are listed, shown, loaded and unloaded."""

    def printed(*arguments: str) -> str:
        done = cutout(server.address, "models", *arguments)
        assert done.stderr == ""
        assert max(map(len, done.stdout.splitlines())) <= 80 or "--json" in arguments
        return done.stdout

    assert "builtin" in printed()
    assert "licence plate" in " ".join(printed("show", "builtin").split())
    assert json.loads(printed("unload", "builtin", "--json"))[0]["loaded_on"] == []
    assert json.loads(printed("load", "builtin", "--device", "cpu", "--json"))[0]["loaded_on"] == ["cpu"]


def test_status(server: RunningServer) -> None:
    """The status names state, devices and callers within 80 columns, or is JSON."""
    text = cutout(server.address, "status").stdout
    assert f"at {server.address}: serving" in text
    assert "cpu" in text
    assert "anonymous" in text
    assert max(map(len, text.splitlines())) <= 80
    assert json.loads(cutout(server.address, "status", "--json").stdout)["devices"][0]["name"] == "cpu"


def test_health(server: RunningServer) -> None:
    """Health is 0 for a server that serves, and 1 with the reason for one that is not there."""
    assert cutout(server.address, "health").stdout == "serving\n"
    assert cutout("127.0.0.1:1", "health", "--retries", "0", "--wait", "0.5", code=1).stdout == "unreachable\n"


def test_errors_are_one_line(server: RunningServer) -> None:
    """What the server refuses is one line on stderr, with the request id and without a traceback."""
    (line,) = cutout(server.address, "models", "show", "no-such-model", code=1).stderr.splitlines()
    assert line.startswith("cutout: error: no model is called 'no-such-model'")
    assert "(NOT_FOUND, MODEL_NOT_FOUND, request " in line


@pytest.mark.parametrize("arguments", [["list", "builtin"], ["show"], ["load"], ["frobnicate"]])
def test_models_flags(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Actions without their name, or with one too many, are refused."""
    with pytest.raises(SystemExit) as caught:
        main(["models", *arguments])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cutout models: error: ")
