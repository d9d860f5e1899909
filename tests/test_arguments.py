"""What every program says about arguments that it does not know."""

import subprocess
from collections.abc import Callable
from pathlib import Path

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


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("seg", {"segment"}),
        ("segment a.png --most", {"--most-failures"}),
        ("segment a.png --strategy b", {"best"}),
        ("models pul", {"pull"}),
        ("segment ph", {"photos"}),
        ("protos --out ph", {"photos"}),
    ],
)
def test_a_shell_completes(words: str, completed: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed for bash completes commands, flags, their words, and files where there should be some."""
    (tmp_path / "photos").mkdir()
    assert main(["completion", "bash"]) == 0
    given = ["cutout", *words.split()]
    ask = (
        f"COMP_WORDS=({' '.join(given)}); COMP_CWORD={len(given) - 1}; _shtab_cutout; printf '%s\\n' ${{COMPREPLY[@]}}"
    )
    script = f"{capsys.readouterr().out}\n{ask}"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == completed
