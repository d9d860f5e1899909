"""Weights from paths, the cache, plain addresses and the hub, over real HTTP."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cutout_server.catalogue import wanted
from cutout_server.errors import FailedPreconditionError
from cutout_server.settings import ModelSettings
from cutout_server.weights import Wanted, Weights, parse
from cutout_server.zoo import HubFile, HubFolder, WebFile
from hub_server import Hub, run_hub
from waiting import PATIENCE_S, wait_until

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FOLDER = {
    "config.json": b"{}",
    "model.safetensors": b"s" * 1000,
    "model.fp16.safetensors": b"half",
    "pytorch_model.bin": b"pickle",
    "README.md": b"read me",
    "sub/tokenizer.json": b"{}",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with a file, a folder, a gated folder and a space, and a plain file."""
    with run_hub() as running:
        running.repos = {
            "models/meta/sam": {"sam.pt": CONTENT},
            "models/idea/dino": dict(FOLDER),
            "models/secret/sam3": dict(FOLDER),
            "spaces/vision/app": {"vae.npz": b"decoder"},
        }
        running.gated = {"models/secret/sam3"}
        running.plain = {"/files/sam.pth": CONTENT}
        yield running


def of(source: object, name: str = "sam") -> Wanted:
    return Wanted(name, source, None, {}, "https://example.org/page")


def weights(hub: Hub, tmp_path: Path, **options: object) -> Weights:
    return Weights(tmp_path / "weights", endpoint=hub.url, **options)


def web(hub: Hub, sha256: str = SHA256) -> WebFile:
    return WebFile(f"{hub.url}/files/sam.pth", sha256)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models/sam.pt", Path("models/sam.pt")),
        ("hub:meta/sam", HubFolder("meta/sam")),
        ("hub:meta/sam@v1.0", HubFolder("meta/sam", revision="v1.0")),
        ("hub:meta/sam/a/sam.pt", HubFile("meta/sam", "a/sam.pt")),
        ("hub:meta/sam/sam.pt@refs/pr/1", HubFile("meta/sam", "sam.pt", revision="refs/pr/1")),
        (f"https://host/sam.pth#sha256={SHA256.upper()}", WebFile("https://host/sam.pth", SHA256)),
    ],
)
def test_sources_are_read(text: str, expected: object):
    """A path, a repository, its file, a revision, an address."""
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["https://host/sam.pth", "https://host/x#sha256=12", "hub:sam", "hub:a/b@"])
def test_sources_that_cannot_be_trusted_or_found_are_refused(text: str):
    """An address needs its checksum, a repository its owner."""
    with pytest.raises(ValueError, match="expected"):
        parse(text)
    with pytest.raises(ValueError, match="checkpoint"):
        ModelSettings(name="a", family="sam2", checkpoint=text)


def test_an_address_is_fetched_once(hub: Hub, tmp_path: Path):
    """The second time the cache answers, without a word over the network; so does an offline one."""
    for each in (weights(hub, tmp_path), weights(hub, tmp_path), weights(hub, tmp_path, offline=True)):
        assert each.fetch(of(web(hub))).checkpoint.read_bytes() == CONTENT
        assert each.files(of(web(hub))).checkpoint.name == "sam.pth"
    assert len(hub.gets) == 1


def test_a_download_that_broke_off_goes_on(hub: Hub, tmp_path: Path):
    """What had come is kept, and only the rest is asked for."""
    hub.cut_after = 400_000
    with pytest.raises(FailedPreconditionError, match="what is there is kept"):
        weights(hub, tmp_path).fetch(of(web(hub)))
    assert not weights(hub, tmp_path).has(of(web(hub)))
    assert weights(hub, tmp_path).fetch(of(web(hub))).checkpoint.read_bytes() == CONTENT
    assert [asked for _, asked in hub.gets] == [None, "bytes=400000-"]


def test_another_checksum_is_refused_and_not_kept(hub: Hub, tmp_path: Path):
    """A file that is not what was expected never reaches the cache; the next try begins anew."""
    changed = web(hub, "0" * 64)
    for _ in range(2):
        with pytest.raises(FailedPreconditionError, match="another checksum") as caught:
            weights(hub, tmp_path).fetch(of(changed))
        assert caught.value.reason == "CHECKSUM_MISMATCH"
    assert [asked for _, asked in hub.gets] == [None, None]
    assert not [path for path in (tmp_path / "weights").rglob("*") if path.is_file() and path.stat().st_size]


def test_two_processes_fetch_once(hub: Hub, tmp_path: Path):
    """The second one waits for the first and takes what it fetched."""
    hub.gate.clear()
    code = (
        "import sys; from pathlib import Path; from cutout_server import web_files; print('ready', flush=True);"
        "print(web_files.fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), progress=False))"
    )
    command = [sys.executable, "-c", code, f"{hub.url}/files/sam.pth", SHA256, str(tmp_path / "sam.pth")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    wait_until(lambda: hub.gets)
    hub.gate.set()
    assert [process.communicate(timeout=PATIENCE_S)[0].strip() for process in both] == [str(tmp_path / "sam.pth")] * 2
    assert len(hub.gets) == 1


def test_a_hub_file_is_fetched_and_checked(hub: Hub, tmp_path: Path):
    """Its checksum is held against the known one, and a file of another is thrown away."""
    good, bad = HubFile("meta/sam", "sam.pt", SHA256), HubFile("meta/sam", "sam.pt", "1" * 64)
    with pytest.raises(FailedPreconditionError, match="another checksum"):
        weights(hub, tmp_path).fetch(of(bad))
    assert not weights(hub, tmp_path).has(of(good))
    assert weights(hub, tmp_path).fetch(of(good)).checkpoint.read_bytes() == CONTENT
    assert weights(hub, tmp_path, offline=True).fetch(of(good)).checkpoint.read_bytes() == CONTENT


def test_of_a_hub_folder_no_pickle_is_fetched(hub: Hub, tmp_path: Path):
    """Configuration, tokenizer and safetensors of full precision, and nothing else."""
    folder = weights(hub, tmp_path).fetch(of(HubFolder("idea/dino"))).checkpoint
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["config.json", "model.safetensors", "sub/tokenizer.json"]


def test_a_folder_that_broke_off_is_not_taken_for_whole(hub: Hub, tmp_path: Path):
    """Without the mark of its end a snapshot is fetched on, and refused offline."""
    source = of(HubFolder("idea/dino"))
    folder = weights(hub, tmp_path).fetch(source).checkpoint
    (folder / "model.safetensors").unlink()
    (folder.parent / f".{folder.name}.whole").unlink()
    assert not weights(hub, tmp_path).has(source)
    with pytest.raises(FailedPreconditionError, match="offline is set"):
        weights(hub, tmp_path, offline=True).fetch(source)
    assert (weights(hub, tmp_path).fetch(source).checkpoint / "model.safetensors").read_bytes() == b"s" * 1000


def test_companions_come_along(hub: Hub, tmp_path: Path):
    """Each from a source of its own: a space's file, and a path that is taken as it is."""
    made_of = Wanted(
        "p", HubFolder("idea/dino"), None, {"a": HubFile("spaces/vision/app", "vae.npz"), "b": Path("here")}
    )
    files = weights(hub, tmp_path).fetch(made_of)
    assert files.companions["a"].read_bytes() == b"decoder"
    assert files.companions["b"] == Path("here")


def test_a_gated_model_says_what_to_do_and_opens_to_a_token(hub: Hub, tmp_path: Path):
    """The error names the page and the setting; the operator's token opens it."""
    source = of(HubFolder("secret/sam3"))
    with pytest.raises(
        FailedPreconditionError, match=r"accept its licence at https://example\.org/page, and set hub_token"
    ):
        weights(hub, tmp_path).fetch(source)
    opened = weights(hub, tmp_path, token="hf_good")  # noqa: S106 - it opens nothing else
    assert opened.fetch(source).checkpoint.is_dir()


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (HubFolder("nobody/nothing"), "does not exist, or is private"),
        (HubFile("meta/sam", "other.pt"), "correct the file's name"),
        (WebFile("{}/files/other.pth", SHA256), "correct the file's name"),
        (HubFile("meta/sam", "sam.pt", size_bytes=1 << 60), "make room"),
    ],
)
def test_what_is_not_there_is_said(hub: Hub, tmp_path: Path, source: object, complaint: str):
    """Each error names the model, the source and what to do."""
    if isinstance(source, WebFile):
        source = WebFile(source.url.format(hub.url), source.sha256)
    with pytest.raises(FailedPreconditionError, match=complaint) as caught:
        weights(hub, tmp_path).fetch(of(source))
    assert caught.value.message.startswith("model 'sam': ")


def test_without_a_network_it_is_said(tmp_path: Path):
    """Nobody listens there: the error says what to check, and what else can be done."""
    nowhere = WebFile("http://127.0.0.1:9/sam.pth", SHA256)
    with pytest.raises(FailedPreconditionError, match="check the network and proxy"):
        Weights(tmp_path).fetch(of(nowhere))
    with pytest.raises(FailedPreconditionError, match="cutout models pull sam"):
        Weights(tmp_path).files(of(nowhere))


def test_a_known_model_may_lie_elsewhere():
    """A path takes the place of the published source; the rest stays known."""
    known = wanted(ModelSettings(name="sam2.1-tiny"))
    assert known.checkpoint.repo == "facebook/sam2.1-hiera-tiny"
    assert known.config == "sam2.1_hiera_t"
    assert wanted(ModelSettings(name="sam2.1-tiny", checkpoint="mine.pt")).checkpoint == Path("mine.pt")
    companions = wanted(ModelSettings(name="paligemma2-3b-224", companions={"mask_decoder": "vae.npz"})).companions
    assert companions == {"mask_decoder": Path("vae.npz")}
