"""What every program says about arguments that it does not know."""

from collections.abc import Callable

import pytest
from cutout_client.cli import main
from cutout_gateway.settings import GatewaySettings
from cutout_server.settings import Settings


@pytest.mark.parametrize(
    ("program", "arguments", "hint"),
    [
        (main, ["segmnet", "a.png"], "; did you mean segment? (`cutout --help` lists all)"),
        (main, ["models", "lst"], "; did you mean list? (`cutout models --help` lists all)"),
        (main, ["segment", "a.png", "--strategy", "bset"], "; did you mean best? ("),
        (main, ["segment"], "arguments are required: IMAGE (`cutout segment --help` lists all)"),
        (Settings.load, ["--prot", "1"], "; did you mean --port? (`python -m cutout_server --help` lists all)"),
        (GatewaySettings.load, ["--prot=1"], "; did you mean --port? (`python -m cutout_gateway --help` lists all)"),
    ],
)
def test_a_typo_gets_one_line(
    program: Callable[[list[str]], object], arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every program ends with 2 and one line that says what was probably meant; usage is shown when asked for alone."""
    with pytest.raises(SystemExit) as caught:
        program(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert hint in line


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Who names no command is shown all of them."""
    assert main([]) == 2
    printed = capsys.readouterr()
    assert "cut objects out of pictures" in printed.out
    assert printed.err == ""
