"""Settings: precedence, refusals, and that each of them is used."""

import re
from hashlib import sha256
from pathlib import Path

import pytest
from cutout_common.config import ConfigError
from cutout_gateway.settings import GatewaySettings
from cutout_server.app import App
from cutout_server.catalogue import Catalogue
from cutout_server.settings import Settings

KEY = "0123456789abcdef"
HASH = sha256(KEY.encode()).hexdigest()
SERVER = Path(__file__).parent.parent / "server" / "cutout_server"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cutout.yaml"
    path.write_text("port: 1001\nmax_prompts: 7\n")
    return path


def test_flag_beats_environment_beats_file_beats_default(file: Path, monkeypatch: pytest.MonkeyPatch):
    """The one stated precedence holds at every step."""
    assert Settings.load([]).port == 50051
    assert Settings.load(["--config", str(file)]).port == 1001
    monkeypatch.setenv("CUTOUT_PORT", "1002")
    assert Settings.load(["--config", str(file)]).port == 1002
    assert Settings.load(["--config", str(file), "--port", "1003"]).port == 1003
    assert Settings.load(["--config", str(file), "--port", "1003"]).max_prompts == 7


def test_the_file_can_be_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch):
    """CUTOUT_CONFIG does what --config does."""
    monkeypatch.setenv("CUTOUT_CONFIG", str(file))
    assert Settings.load([]).max_prompts == 7


def test_what_is_printed_can_be_read_again(tmp_path: Path):
    """The YAML of the settings in force is a settings file."""
    settings = Settings.load(["--port", "1004", "--devices", "cpu"])
    file = tmp_path / "printed.yaml"
    file.write_text(settings.to_yaml())
    assert Settings.load(["--config", str(file)]) == settings


def test_unknown_variables_are_refused(monkeypatch: pytest.MonkeyPatch):
    """A misspelt variable is an error that lists the known ones; those of the gateway and the client are not ours."""
    monkeypatch.setenv("CUTOUT_GATEWAY_PORT", "1")
    monkeypatch.setenv("CUTOUT_CLIENT_SERVER", "x")
    Settings.load([])
    monkeypatch.setenv("CUTOUT_PROT", "1")
    with pytest.raises(ConfigError, match=r"CUTOUT_PROT; expected one of .*CUTOUT_PORT"):
        Settings.load([])


def test_unknown_flags_are_refused(capsys: pytest.CaptureFixture[str]):
    """A misspelt flag is an error, and so is an abbreviation."""
    for flag in ("--prot", "--max-prompt"):
        with pytest.raises(SystemExit):
            Settings.load([flag, "1"])
        assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prot: 1", "prot"),
        ("port: many", "port"),
        ("port: 70000", "port"),
        ("models: [{name: a, family: builtin, weights: x}]", "models.0.weights"),
        ("models: []", "models"),
        ("models: [{name: A B, family: builtin}]", "models.0.name"),
        ("models: [{name: a, family: builtin}, {name: a, family: builtin}]", "each name once"),
        ("models: [{name: a, family: builtin, devices: [tpu]}]", "devices that are not configured"),
        ("default_segmenter: nobody", "default_segmenter"),
        ("tls_cert: x.pem", "tls_cert and tls_key"),
        ("tls_client_ca: x.pem", "tls_client_ca"),
        ("max_image_pixels: 400000000", "max_pixels_in_hand"),
        ("api_keys: [{caller: me, key: short}]", "api_keys.0: .*key: expected 16 or more"),
        ("api_keys: [{caller: me, key: ' 0123456789abcdef'}]", "api_keys.0: .*without spaces"),
        ("api_keys: [{caller: me, key: '0123456789abcd\u00e9f'}]", "api_keys.0: .*ASCII"),
        ("api_keys: [{caller: me, sha256: 12ab}]", "api_keys.0.sha256"),
        ("api_keys: [{caller: me}]", "api_keys.0: .*either key or sha256"),
        (f"api_keys: [{{caller: me, key: {KEY}, sha256: {HASH}}}]", "api_keys.0: .*either key or sha256"),
        (f"api_keys: [{{caller: a, key: {KEY}}}, {{caller: b, key: {KEY}}}]", "a and b have the same key"),
        (f"api_keys: [{{caller: a, sha256: {HASH}}}, {{caller: b, key: {KEY}}}]", "a and b have the same key"),
        ("port: [", "while parsing"),
    ],
)
def test_values_that_cannot_be_used_are_refused(text: str, complaint: str, tmp_path: Path):
    """Every wrong value is an error that names the setting."""
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        Settings.load(["--config", str(file)])


def test_devices_that_are_not_there_are_refused():
    """A server never starts for a device that it would not find at the first request."""
    with pytest.raises(ConfigError, match=r"devices: there is no device cuda:99"):
        App(Settings(devices=["cpu", "cuda:99"]))


def test_a_missing_file_is_an_error():
    """A settings file that is not there is not passed over."""
    with pytest.raises(ConfigError, match="does not exist"):
        Settings.load(["--config", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        ([{"name": "a", "family": "sam9"}], "family 'sam9' is unknown; expected .*builtin"),
        ([{"name": "a", "family": "sam2"}], "needs a checkpoint"),
    ],
)
def test_models_that_cannot_exist_are_refused(models: list[dict[str, str]], complaint: str):
    """A family that is unknown, or that lacks its weights, is found out before anything is loaded."""
    with pytest.raises(ConfigError, match=complaint):
        Catalogue.of(Settings(models=models))


def test_secrets_are_not_printed():
    """An API key does not appear among the printed settings."""
    settings = Settings(api_keys=[{"caller": "me", "key": "0123456789abcdef"}])
    assert "0123456789abcdef" not in settings.to_yaml() + repr(settings)


def test_secrets_are_not_printed_even_when_they_are_wrong(tmp_path: Path):
    """The error about a key that is too short does not repeat it."""
    file = tmp_path / "wrong.yaml"
    file.write_text("api_keys: [{caller: me, key: hush-hush}]")
    with pytest.raises(ConfigError) as refused:
        Settings.load(["--config", str(file)])
    assert "hush" not in str(refused.value)


def test_a_key_that_is_written_as_a_plain_word_is_not_repeated(monkeypatch: pytest.MonkeyPatch):
    """Lists are written with commas, but a key needs its caller beside it: the error names the setting alone."""
    monkeypatch.setenv("CUTOUT_API_KEYS", "hush-hush-hush-hush,hush-hush-hush-again")
    with pytest.raises(ConfigError, match=r"api_keys\.0: .*; api_keys\.1: ") as refused:
        Settings.load([])
    assert "hush" not in str(refused.value)


def test_every_setting_is_used():
    """No setting is parsed and then forgotten."""
    sources = "".join(path.read_text() for path in SERVER.rglob("*.py") if path.name != "settings.py")
    unused = [name for name in Settings.model_fields if not re.search(rf"settings\.{name}\b", sources)]
    assert unused == ["profile"]  # It becomes models while the settings are read.


@pytest.mark.parametrize(
    "text",
    [
        "http://a.example,https://b.example",
        " http://a.example , https://b.example,",
        '["http://a.example", "https://b.example"]',
    ],
)
def test_lists_in_the_environment_are_written_with_commas_or_as_json(text: str, monkeypatch: pytest.MonkeyPatch):
    """Both forms mean the same, for the gateway and the server."""
    monkeypatch.setenv("CUTOUT_GATEWAY_CORS_ORIGINS", text)
    assert GatewaySettings.load([]).cors_origins == ("http://a.example", "https://b.example")
    monkeypatch.setenv("CUTOUT_ALLOW_URIS", "true")
    monkeypatch.setenv("CUTOUT_URI_HOSTS", text)
    assert Settings.load([]).uri_hosts == ("http://a.example", "https://b.example")


def test_keys_come_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch):
    """What is no list of plain values is JSON; what is neither is refused by its name with what it takes."""
    monkeypatch.setenv("CUTOUT_API_KEYS", f'[{{"caller": "me", "key": "{KEY}"}}]')
    assert [key.caller for key in Settings.load([]).api_keys] == ["me"]
    monkeypatch.setenv("CUTOUT_API_KEYS", "[{caller: me}]")
    with pytest.raises(ConfigError, match="CUTOUT_API_KEYS: expected values with commas between them, or JSON"):
        Settings.load([])
