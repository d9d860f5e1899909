"""Official files: both runtimes answer as the package's own model class and `predict` do, and alike."""

import ast
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import Ask, detect
from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.models.grounding_dino import GroundingDino
from cutout_server.models.grounding_dino_official.architecture import guess, read_config
from cutout_server.models.grounding_dino_official.package import GroundingDINO_SwinB_cfg, GroundingDINO_SwinT_OGC
from cutout_server.models.protocols import Detector
from cutout_server.models.queries import Detection
from cutout_server.models.registry import FAMILIES
from cutout_server.models.runtime import EXACT
from cutout_server.types import ModelFiles
from grounding_dino_checkpoints import (  # noqa: F401 - fixtures
    QUERIES,
    OfficialFiles,
    middle,
    official_files,
    one_thread,
    tokenizer,
)
from PIL import Image
from sam2_cases import PICTURES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # The package's, of old paths and of escapes in strings.
    from groundingdino.util import inference

# The package's own layers use an old name of autocast, which ours leave alone.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread", "kept_memory"),
    pytest.mark.filterwarnings("ignore:`torch.cuda.amp.autocast:FutureWarning"),
]

PHRASES = ("cat", "Fluffhy astronaut", "remote control")
# Low ones are quick: the package makes the longer side 1333 pixels long.
NARROW = {
    "wide": lambda: PICTURES["wide"]()[60:84],
    "tall": lambda: np.ascontiguousarray(PICTURES["tall"]()[:, 50:60]),
    "tiny": lambda: PICTURES["tiny"]()[:, 1:2].repeat(5, 0).copy(),
}
# A quarter as high as the photograph: what is reduced to these 1333 pixels is reduced alike at any height.
LARGE = {"large": lambda: PICTURES["large"]()[600:1000]}


@pytest.fixture(scope="module")
def detector(official_files: OfficialFiles) -> GroundingDino:  # noqa: F811
    return FAMILIES["grounding-dino-official"].load(official_files.model_files(), "cpu", EXACT)


@pytest.fixture(scope="module")
def transformed(official_files: OfficialFiles) -> GroundingDino:  # noqa: F811
    """The same file through transformers."""
    return FAMILIES["grounding-dino"].load(official_files.model_files(config=False), "cpu", EXACT)


@pytest.fixture(scope="module")
def reference(official_files: OfficialFiles) -> Iterator[torch.nn.Module]:  # noqa: F811
    """The package's model with its own layers, tokenizing for itself; of ours it has the text encoder alone."""
    loaded = FAMILIES["grounding-dino-official"].load(official_files.model_files(), "cpu", EXACT)
    model = loaded._network._model
    for layer in model.transformer.decoder.layers:
        del layer.forward_ffn
    model.tokenizer = tokenizer()
    return model


def picture(name: str) -> np.ndarray:
    return {**PICTURES, **NARROW, **LARGE}[name]()


def ask(pixels: np.ndarray, *phrases: str, threshold: float = 0.3, text_threshold: float = 0.0) -> Ask:
    return Ask(np.ascontiguousarray(pixels), phrases or PHRASES, threshold, text_threshold)


def predicted(reference: torch.nn.Module, query: Ask, folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Boxes (x_min, y_min, x_max, y_max) relative to the picture, scores and words, by the package's own functions."""
    path = folder / "picture.png"
    Image.fromarray(query.pixels).save(path)
    _, image = inference.load_image(str(path))
    caption = ". ".join(query.phrases)
    boxes, scores, words = inference.predict(
        reference, image, caption, query.box_threshold, query.text_threshold, device="cpu"
    )
    return inference.box_convert(boxes, "cxcywh", "xyxy").numpy(), scores.numpy(), words


def relative(detections: list[Detection], query: Ask) -> np.ndarray:
    height, width = query.pixels.shape[:2]
    boxes = [(f.box.x_min, f.box.y_min, f.box.x_max, f.box.y_max) for f in detections]
    return np.array(boxes).reshape(-1, 4) / [width, height, width, height]


def assert_predicted(found: list[Detection], reference: torch.nn.Module, query: Ask, folder: Path) -> None:
    """Boxes within 1e-5 of the picture's sides, scores within 1e-5."""
    boxes, scores, _ = predicted(reference, query, folder)
    np.testing.assert_allclose(relative(found, query), boxes, atol=1e-5)
    np.testing.assert_allclose([each.score for each in found], scores, atol=1e-5)


def assert_alike(found: list[Detection], other: list[Detection], query: Ask) -> None:
    """Boxes within 1e-4 of the picture's sides, scores within 1e-4, phrases identical."""
    np.testing.assert_allclose(relative(found, query), relative(other, query), atol=1e-4)
    np.testing.assert_allclose([each.score for each in found], [each.score for each in other], atol=1e-4)
    assert [each.phrase_index for each in found] == [each.phrase_index for each in other]


@pytest.mark.parametrize("phrases", [PHRASES, ("a fluffhy cat",)], ids=["many phrases", "one phrase"])
@pytest.mark.parametrize("name", NARROW)
def test_equal_to_predict(
    detector: GroundingDino, reference: torch.nn.Module, name: str, phrases: tuple[str, ...], tmp_path: Path
):
    """About half of the boxes are above the threshold."""
    query = ask(picture(name), *phrases, threshold=0.0)
    scores = torch.tensor([each.score for each in detect(detector, [query])[0]])
    query = dataclasses.replace(query, box_threshold=middle(scores))
    (found,) = detect(detector, [query])
    assert_predicted(found, reference, query, tmp_path)
    assert QUERIES // 4 <= len(found) <= 3 * QUERIES // 4


def test_full_stops_within_a_phrase(detector: GroundingDino, transformed: GroundingDino):
    """Through both runtimes they change nothing: the phrase is read as the one of its words, and found as one."""
    pixels = picture("tiny")
    for runtime in (detector, transformed):
        dotted, plain = detect(
            runtime, [ask(pixels, *each) for each in (("St. Astronaut", "cat"), ("st astronaut", "cat"))]
        )
        assert dotted == plain
        assert {each.phrase_index for each in dotted} == {0, 1}


def test_phrases_that_the_model_reads_the_same(detector: GroundingDino, transformed: GroundingDino):
    """Each find is one of all of them, with one box and one score."""
    pixels = picture("tiny")
    for runtime in (detector, transformed):
        several, one = detect(
            runtime, [ask(pixels, *each) for each in (("c\u00e1t", "st astronaut", "cat"), ("cat", "st astronaut"))]
        )
        expected = [replaced for each in one for replaced in _for_each(each)]
        assert several == expected
        assert {each.phrase_index for each in several} == {0, 1, 2}


def _for_each(found: Detection) -> list[Detection]:
    """The find of "cat" as that of both of its spellings."""
    return [found] if found.phrase_index else [found, dataclasses.replace(found, phrase_index=2)]


@pytest.mark.parametrize("name", ["square", "large"])
def test_equal_on_photographs_of_either_size(
    detector: GroundingDino, transformed: GroundingDino, reference: torch.nn.Module, name: str, tmp_path: Path
):
    """Every box, of one that is enlarged and of one that is reduced, the latter through both runtimes."""
    query = ask(picture(name), threshold=0.0)
    (found,) = detect(detector, [query])
    assert len(found) == QUERIES
    assert_predicted(found, reference, query, tmp_path)
    if name == "large":
        assert_alike(found, detect(transformed, [query])[0], query)


def test_phrases_beside_the_packages_words(detector: GroundingDino, reference: torch.nn.Module):
    """Where the package joins words of several phrases, or gives a piece of one, each box has one phrase, whole."""
    query = ask(picture("wide"), threshold=0.0)
    (found,) = detect(detector, [query])
    caption = inference.preprocess_caption(". ".join(PHRASES))
    with torch.inference_mode():
        answer = reference(detector._prepare(query.pixels)[None], captions=[caption])
    logits = answer["pred_logits"][0].clone()
    tokenized = reference.tokenizer(caption)
    marks = [place for place, token in enumerate(tokenized["input_ids"]) if token in {101, 102, 1012}]
    whole = [words.lower() for words in PHRASES]
    agreed, joined, pieces = set(), 0, 0
    for each, scores in zip(found, logits, strict=True):
        scores[marks] = -torch.inf
        words = inference.get_phrases_from_posmap(scores > scores.max() - 1, tokenized, reference.tokenizer)
        best = inference.get_phrases_from_posmap(scores == scores.max(), tokenized, reference.tokenizer)
        assert best.removeprefix("##") in whole[each.phrase_index]
        assert not any(best.removeprefix("##") in other for i, other in enumerate(whole) if i != each.phrase_index)
        agreed.add(each.phrase_index)
        joined += sum(any(word in words for word in phrase.split()) for phrase in whole) > 1
        pieces += best.startswith("##")
    assert len(agreed) >= 2
    assert joined
    assert pieces


@pytest.mark.parametrize("name", NARROW)
def test_the_same_weights_through_both_runtimes(detector: GroundingDino, transformed: GroundingDino, name: str):
    """Every box, with the same phrase."""
    query = ask(picture(name), threshold=0.0)
    (found,), (other,) = detect(detector, [query]), detect(transformed, [query])
    assert len(found) == QUERIES
    assert_alike(found, other, query)


def test_several_in_a_call(detector: GroundingDino):
    """Each picture answers as it does alone."""
    queries = [ask(picture("wide")), ask(picture("tall"), "cat", threshold=0.5), ask(picture("tiny"), "dog")]
    assert isinstance(detector, Detector)
    together = detect(detector, queries)
    assert together == [detect(detector, [query])[0] for query in queries]
    assert all(together)


def test_several_in_a_pass(detector: GroundingDino, monkeypatch: pytest.MonkeyPatch):
    """As on a GPU: pictures of one size and one prompt share a pass, others do not, and all answer as alone."""
    tiny = picture("tiny")
    queries = [ask(tiny), ask(tiny, "cat"), ask(tiny[::-1]), ask(tiny[::-1] // 2, "cat")]
    alone = [detect(detector, [query])[0] for query in queries]
    batches = []
    monkeypatch.setattr(detector, "_per_pass", 4)
    model = detector._network._model
    hook = model.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    answers = detect(detector, queries)
    hook.remove()
    assert batches == [2, 2]
    for query, found, expected in zip(queries, answers, alone, strict=True):
        assert found
        assert_alike(found, expected, query)


@pytest.mark.parametrize(
    "shape", [(7, 5), (800, 800), (640, 97), (97, 640), (1600, 1066), (333, 200), (1333, 800), (3, 3)], ids=str
)
def test_pixels(detector: GroundingDino, shape: tuple[int, int], tmp_path: Path):
    """They are those of the package's `load_image`, to the bit, whatever is rounded on the way."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(image).save(path)
    torch.testing.assert_close(detector._prepare(image), inference.load_image(str(path))[1], atol=0, rtol=0)


def test_a_picture_that_is_too_narrow(detector: GroundingDino):
    """It is refused by name."""
    with pytest.raises(InvalidRequestError, match="less narrow"):
        detect(detector, [ask(np.zeros((1, 60_000, 3), np.uint8))])


def _fresh(files: ModelFiles, **changes: object) -> ModelFiles:
    return dataclasses.replace(files, **changes)


def _config(files: OfficialFiles, folder: Path, line: str) -> str:
    path = folder / "other_cfg.py"
    name = line.split(" = ", maxsplit=1)[0]
    kept = [own for own in files.config.read_text().splitlines() if not own.startswith(f"{name} = ")]
    path.write_text("\n".join([*kept, line]))
    return str(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hidden_dim = __import__('pathlib').Path('{folder}/ran').touch()", "never run: .* plain values"),
        ("import os", "never run: .* plain values.* is something else"),
        ("this is = no (Python", "never run"),
        ("hidden_dim = 'wide'", "describes no model that the package can build"),
        ("hidden_dim = 128", "of another architecture than config"),
        ("backbone = 'resnet50'", "expected a backbone of swin_T_224_1k"),
        ("more_layers = 3", "has \\['more_layers'\\] that the package does not know"),
    ],
)
def test_configs_that_are_refused(official_files: OfficialFiles, tmp_path: Path, line: str, expected: str):  # noqa: F811
    """They are read and never run."""
    config = _config(official_files, tmp_path, line.format(folder=tmp_path))
    with pytest.raises(FailedPreconditionError, match=expected):
        FAMILIES["grounding-dino-official"].load(_fresh(official_files.model_files(), config=config), "cpu", EXACT)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("width", "expected"), [(96, GroundingDINO_SwinT_OGC), (128, GroundingDINO_SwinB_cfg)])
def test_the_two_official_architectures(width: int, expected: object):
    """They are told apart by the width of their backbones, and have every value of the package's configs."""
    config = guess({"backbone.0.patch_embed.proj.weight": torch.zeros(width, 3, 4, 4)})
    path = Path(expected.__file__)
    assert vars(config) == vars(read_config(path))
    own = ast.parse(path.read_text()).body
    assert vars(config).keys() == {line.targets[0].id for line in own}
    assert config.backbone == expected.backbone
    with pytest.raises(FailedPreconditionError, match="set config to the file"):
        guess({"backbone.0.patch_embed.proj.weight": torch.zeros(192, 3, 4, 4)})


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


SPOILT: dict[str, tuple[Callable[[OfficialFiles, Path], ModelFiles], str]] = {
    "truncated": (lambda f, p: _rewritten(f, p, lambda data: data[:100_000]), "damaged"),
    "empty": (lambda f, p: _rewritten(f, p, lambda data: b""), "empty"),
    "missing": (lambda f, p: _fresh(f.model_files(config=False), checkpoint=p / "none.pth"), "none.pth is not a f"),
    "of another model": (
        lambda f, p: _saved(f, p, {"weight": torch.zeros(3)}),
        "another model|not one of the official",
    ),
    "a part": (lambda f, p: _saved(f, p, dict(list(_weights(f).items())[:-9])), "missing bbox_embed|of another arch"),
    "malicious": (lambda f, p: _saved(f, p, {"weight": Evil(p / "ran")}), "holds more than tensors"),
    "no text encoder": (lambda f, p: _fresh(f.model_files(config=False), companions={}), "companions lack text_enc"),
    "no such text encoder": (
        lambda f, p: _fresh(f.model_files(config=False), companions={"text_encoder": p / "none"}),
        "none is not a folder",
    ),
}


def _weights(files: OfficialFiles) -> dict[str, torch.Tensor]:
    return torch.load(files.checkpoint, weights_only=True)["model"]


def _saved(files: OfficialFiles, folder: Path, weights: dict) -> ModelFiles:
    torch.save({"model": weights}, folder / "spoilt.pth")
    return _fresh(files.model_files(config=False), checkpoint=folder / "spoilt.pth")


def _rewritten(files: OfficialFiles, folder: Path, change: Callable[[bytes], bytes]) -> ModelFiles:
    (folder / "spoilt.pth").write_bytes(change(files.checkpoint.read_bytes()))
    return _fresh(files.model_files(config=False), checkpoint=folder / "spoilt.pth")


@pytest.mark.parametrize("family", ["grounding-dino", "grounding-dino-official"])
@pytest.mark.parametrize("case", SPOILT)
def test_files_that_cannot_be_used(official_files: OfficialFiles, tmp_path: Path, family: str, case: str):  # noqa: F811
    """Each says what is wrong and what to do; nothing in them is run."""
    spoil, expected = SPOILT[case]
    with pytest.raises(FailedPreconditionError, match=expected) as error:
        FAMILIES[family].load(spoil(official_files, tmp_path), "cpu", EXACT)
    assert len(str(error.value)) < 700
    assert not (tmp_path / "ran").exists()


def test_a_config_beside_transformers(official_files: OfficialFiles):  # noqa: F811
    """It is refused, as nothing would read it."""
    with pytest.raises(FailedPreconditionError, match="config must not be set"):
        FAMILIES["grounding-dino"].load(official_files.model_files(), "cpu", EXACT)
