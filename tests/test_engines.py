"""Engines and precisions: which are taken, what they make of a checkpoint, and when that is refused."""

# ruff: noqa: F811 - fixtures are imported

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoints import Sam2Files, sam2_files  # noqa: F401 - a fixture
from conftest import Photo, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import model_service_pb2 as models_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.config import ConfigError
from cutout_server.catalogue import Catalogue
from cutout_server.errors import FailedPreconditionError
from cutout_server.models import runtime, sam2
from cutout_server.models.engines import prepare
from cutout_server.models.engines.exports import digest_of
from cutout_server.models.mask_decoder import decoder_dtype
from cutout_server.models.queries import DecodeQuery, MaskQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.models.runtime import EXACT, Engine, Precision, Runtime, choose
from cutout_server.settings import Settings
from cutout_server.types import Box, ModelFiles, ObjectPrompt
from paligemma_checkpoints import one_thread  # noqa: F401 - a fixture
from pydantic import ValidationError
from waiting import PATIENCE_S

ALL = frozenset(Engine) - {Engine.AUTO}
PLAIN = frozenset({Engine.EAGER})
# Exporters use what newer PyTorch deprecates.
exporting = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def modern(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that multiplies in bf16, with every package installed."""
    monkeypatch.setattr(runtime, "_best", lambda _device, **_how: Precision.BF16)
    monkeypatch.setattr(runtime, "_installed", lambda _: True)


@pytest.mark.parametrize(
    ("engine", "precision", "able", "expected"),
    [
        ("auto", "auto", ALL, ("openvino", "bf16")),
        ("auto", "fp32", ALL, ("openvino", "fp32")),
        ("auto", "fp16", ALL, ("eager", "fp16")),
        ("auto", "int8", ALL, ("onnx", "int8")),
        ("auto", "auto", PLAIN, ("eager", "bf16")),
        ("eager", "auto", ALL, ("eager", "bf16")),
        ("onnx", "auto", ALL, ("onnx", "fp32")),
        ("compile", "fp32", ALL, ("compile", "fp32")),
    ],
)
@pytest.mark.usefixtures("modern")
def test_auto_takes_the_fastest_that_keeps_masks_equal(engine, precision, able, expected):
    """bf16 where the hardware has it; int8 never unless it is asked for."""
    assert choose(Engine(engine), Precision(precision), able, "cpu") == expected


def test_auto_makes_do_with_what_is_installed(monkeypatch):
    """Without packages and without bf16 in hardware: PyTorch as it is, in fp32; a named engine says what it lacks."""
    monkeypatch.setattr(runtime, "_best", lambda _device, **_how: Precision.FP32)
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    assert choose(Engine.AUTO, Precision.AUTO, ALL, "cpu") == ("eager", "fp32")
    with pytest.raises(FailedPreconditionError, match=r"openvino.*pip install 'cutout-service\[openvino\]'"):
        choose(Engine.OPENVINO, Precision.AUTO, ALL, "cpu")


@pytest.mark.parametrize(
    ("amx", "avx512", "usual", "detectors"),
    [(True, True, "bf16", "bf16"), (False, True, "bf16", "fp32"), (False, False, "fp32", "fp32")],
)
def test_auto_asks_the_processor(monkeypatch, amx, avx512, usual, detectors):
    """Where bf16 gains little, detectors keep the equal answers of fp32; a precision that is named is taken."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    needing = {name for name, family in FAMILIES.items() if family.bf16_needs_amx}
    assert needing == {"grounding-dino", "mm-grounding-dino"}
    for needs, expected in ((False, usual), (True, detectors)):
        assert choose(Engine.EAGER, Precision.AUTO, PLAIN, "cpu", bf16_needs_amx=needs) == ("eager", expected)
        assert choose(Engine.EAGER, Precision.BF16, PLAIN, "cpu", bf16_needs_amx=needs) == ("eager", "bf16")


@pytest.mark.usefixtures("modern")
def test_engines_for_the_cpu_are_refused_elsewhere():
    """A model never runs elsewhere than it was told."""
    assert choose(Engine.AUTO, Precision.AUTO, ALL, "cuda:0") == ("eager", "bf16")
    with pytest.raises(FailedPreconditionError, match="onnx runs on the CPU only, not on cuda:0"):
        choose(Engine.ONNX, Precision.AUTO, ALL, "cuda:0")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"engine": "openvino", "precision": "int8"}, r"precision: with engine openvino, expected one of .*'bf16'"),
        ({"engine": "eager", "precision": "int8"}, "precision: with engine eager"),
        ({"engine": "tensorrt"}, "engine"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings, text):
    """The error names the setting and what was expected."""
    with pytest.raises(ValidationError, match=text):
        Settings(**settings)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"name": "builtin", "family": "builtin", "engine": "onnx"}, "builtin.*has no choice of engine"),
        ({"name": "s", "family": "sam2", "checkpoint": "x.pt", "engine": "onnx", "precision": "bf16"}, "s: precision"),
    ],
)
def test_a_models_own_engine_must_be_one_that_it_has(model, text):
    """What is said for one model is never passed over in silence."""
    with pytest.raises(ConfigError, match=text):
        Catalogue.of(Settings(models=[model]))


def test_an_engine_for_all_models_is_for_those_that_have_it():
    """A model without a choice runs as ever; a model's own setting goes before the server's."""
    models = [
        {"name": "builtin", "family": "builtin"},
        {"name": "a", "family": "sam2", "checkpoint": "x.pt"},
        {"name": "b", "family": "sam2", "checkpoint": "x.pt", "engine": "eager", "precision": "fp32"},
    ]
    specs = Catalogue.of(Settings(models=models, engine="onnx", precision="int8")).specs
    assert [(spec.engine, spec.precision) for spec in specs.values()] == [
        ("onnx", "int8"),
        ("eager", "fp32"),
        ("eager", "fp32"),
    ]


def masks(files: Sam2Files, runtime: Runtime, photos: dict[str, Photo]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits and masks of points and boxes on photographs."""
    model = sam2.load(ModelFiles(files.checkpoint, str(files.config)), "cpu", runtime)
    logits, found = [], []
    for photo in photos.values():
        height, width, _ = photo.pixels.shape
        (embedding,) = model.encode([photo.pixels])
        prompts = [
            ObjectPrompt(box=Box(width * x / 5, height * y / 5, width * (x + 2) / 5, height * (y + 2) / 5))
            for x in range(3)
            for y in range(3)
        ]
        decoded = model.decode([DecodeQuery(embedding, prompt, multimask=False) for prompt in prompts])
        logits += [each.logits[0] for each in decoded]
        queries = [MaskQuery(embedding, each.logits[0], 0.0) for each in decoded]
        found += [patch.whole() for patch in model.masks(queries)]
    return np.stack(logits), found


@pytest.fixture(scope="module")
def exact(sam2_files: Sam2Files, photos: dict[str, Photo]) -> tuple[np.ndarray, list[np.ndarray]]:
    return masks(sam2_files, EXACT, photos)


@exporting
@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "precision"),
    [("eager", "bf16"), ("compile", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32")],
)
def test_masks_are_equal_by_every_engine(sam2_files, photos, exact, tmp_path, engine, precision):
    """A mean IoU of 0.99 with the exact ones at least, over photographs and boxes; in fp32 logits agree to 1e-3."""
    logits, found = masks(sam2_files, Runtime(Engine(engine), Precision(precision), tmp_path), photos)
    ious = [(a & b).sum() / (a | b).sum() for a, b in zip(found, exact[1], strict=True) if (a | b).any()]
    assert len(ious) > len(found) // 2
    assert np.mean(ious) >= 0.99, sorted(ious)
    if precision == "fp32":
        assert np.abs(logits - exact[0]).max() < 1e-3


@exporting
@pytest.mark.slow
def test_an_export_is_made_once_and_only_for_its_own_checkpoint(sam2_files, tmp_path):
    """Another checkpoint has another export; one that was changed on disk is refused, with what to do."""
    runtime = Runtime(Engine.OPENVINO, Precision.FP32, tmp_path)
    files = ModelFiles(sam2_files.checkpoint, str(sam2_files.config))
    sam2.load(files, "cpu", runtime)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    made = (folder / "manifest.json").stat().st_mtime_ns
    sam2.load(files, "cpu", Runtime(Engine.OPENVINO, Precision.FP32, tmp_path, may_export=False))
    assert (folder / "manifest.json").stat().st_mtime_ns == made

    weights = torch.load(sam2_files.checkpoint, weights_only=True)["model"]
    weights["image_encoder.trunk.patch_embed.proj.bias"] += 1
    torch.save(weights, tmp_path / "other.pt")
    other = ModelFiles(tmp_path / "other.pt", str(sam2_files.config))
    with pytest.raises(FailedPreconditionError, match="no export of these weights for openvino fp32") as missing:
        sam2.load(other, "cpu", Runtime(Engine.OPENVINO, Precision.FP32, tmp_path, may_export=False))
    assert missing.value.reason == "EXPORT_MISSING"

    blob = folder / "encoder.blob"
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    with pytest.raises(FailedPreconditionError, match="damaged, or of another checkpoint") as damaged:
        sam2.load(files, "cpu", runtime)
    assert damaged.value.reason == "EXPORT_MISMATCH"


@exporting
@pytest.mark.slow
@pytest.mark.parametrize("engine", [Engine.OPENVINO, Engine.ONNX])
def test_an_engine_has_the_only_copy_of_the_weights(engine, tmp_path):
    """Those that it was given are gone; the answers are theirs."""
    torch.manual_seed(0)
    module, pixels = torch.nn.Conv2d(3, 4, 1).eval(), torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        expected = module(pixels)
    encoder = prepare(module, torch.zeros(1, 3, 8, 8), Runtime(engine, Precision.FP32, tmp_path))
    assert all(parameter.is_meta for parameter in module.parameters())
    torch.testing.assert_close(encoder(pixels)[0], expected, rtol=1e-4, atol=1e-5)


def test_an_export_is_made_anew_when_the_code_changes(tmp_path):
    """The same weights in the same modules, computed with otherwise."""
    digests = set()
    for place, sign in (("a", "+"), ("b", "-"), ("c", "-")):
        source = f"""
import torch

class Shift(torch.nn.Linear):
    def forward(self, values):
        return values {sign} self.weight
"""
        (tmp_path / place).mkdir()
        path = tmp_path / place / "shift.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(f"shift_{place}", path)
        code = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = code
        spec.loader.exec_module(code)
        torch.manual_seed(0)
        digests.add(digest_of(torch.nn.Sequential(code.Shift(2, 2))))
    assert len(digests) == 2


@exporting
@pytest.mark.slow
def test_nothing_is_exported_at_a_request(sam2_files, photos, tmp_path):
    """An engine that `auto` would take gives way; one that was named refuses, until its export is there."""
    model = {"name": "sam2", "family": "sam2", "checkpoint": str(sam2_files.checkpoint)}
    model |= {"config": str(sam2_files.config)}
    pixels = photos["chelsea"].pixels
    height, width, _ = pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=pixels.tobytes())
    box = mask_pb2.Box(x_min=40, y_min=20, x_max=400, y_max=280)
    request = pb2.SegmentByBoxRequest(image=image_pb2.Image(tensor=tensor), boxes=[box])
    show = models_pb2.GetModelRequest(name="sam2")
    options = {"models": [model], "weights_dir": tmp_path, "preload": False, "precision": "fp32"}
    with run_server(engine="auto", **options) as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        assert stubs.segmentation.SegmentByBox(request).segmentation.objects
        assert list(stubs.models.GetModel(show).model.engines) == ["eager fp32"]
    with run_server(engine="openvino", **options) as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        with pytest.raises(Exception, match="cutout models export"):
            stubs.segmentation.SegmentByBox(request)
        stubs.models.LoadModel(models_pb2.LoadModelRequest(name="sam2"), timeout=PATIENCE_S)
        assert stubs.segmentation.SegmentByBox(request).segmentation.objects
        assert list(stubs.models.GetModel(show).model.engines) == ["openvino fp32"]
    with run_server(engine="auto", **options) as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        assert stubs.segmentation.SegmentByBox(request).segmentation.objects
        assert list(stubs.models.GetModel(show).model.engines) == ["openvino fp32"]


@pytest.mark.slow
def test_openvino_reports_to_nobody():
    """Its converter has a stub in place of the package that sends what it is used for."""
    script = """
import sys, torch
from cutout_server.models.engines import Engine, Precision, Runtime, prepare
prepare(torch.nn.Conv2d(3, 1, 1).eval(), torch.zeros(1, 3, 8, 8), Runtime(Engine.OPENVINO, Precision.FP32))
converter = sys.modules["openvino.tools.ovc.convert_impl"]
print(converter.tm.__name__, [name for name in sys.modules if name.startswith("openvino_t")])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout.splitlines()[-1] == "openvino.tools.ovc.telemetry_stub ['openvino_telemetry']", done.stderr


def test_the_mask_decoder_follows_a_precision_that_is_named(sam2_files):
    """`bf16` has it compute so, too; `auto` leaves it in float32; the references' answers need the official one."""
    model = {"name": "sam2", "family": "sam2", "checkpoint": str(sam2_files.checkpoint)}
    model |= {"config": str(sam2_files.config), "engine": "eager"}
    dtypes = {}
    for precision in ("bf16", "auto", "fp16", "fp32"):
        catalogue = Catalogue.of(Settings(models=[model | {"precision": precision}]))
        dtypes[precision] = decoder_dtype(catalogue.specs["sam2"].load("cpu").runtime)
    auto = (
        None if choose(Engine.EAGER, Precision.AUTO, frozenset(Engine), "cpu")[1] is Precision.FP32 else torch.float32
    )
    assert dtypes == {"bf16": torch.bfloat16, "auto": auto, "fp16": torch.float32, "fp32": None}


@pytest.mark.slow
def test_exports_are_made_from_the_command_line(sam2_files, tmp_path):
    """`cutout models export` leaves what the server loads; what cannot be is said."""
    model = {"name": "sam2", "family": "sam2", "checkpoint": str(sam2_files.checkpoint)}
    model |= {"config": str(sam2_files.config)}
    config = tmp_path / "cutout.yaml"
    config.write_text(json.dumps({"models": [model, {"name": "builtin", "family": "builtin"}]}))

    def cutout(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cutout_client", "models", *arguments]
        flags = [f"--config={config}", f"--weights-dir={tmp_path}"]
        return subprocess.run([*command, *flags], env=os.environ, capture_output=True, text=True, timeout=PATIENCE_S)

    done = cutout("export", "sam2", "--engine=openvino", "--precision=fp32", "--json")
    assert [(each["name"], each["engine"]) for each in json.loads(done.stdout)] == [("sam2", "openvino fp32")]
    runtime = Runtime(Engine.OPENVINO, Precision.FP32, tmp_path / "exports", may_export=False)
    sam2.load(ModelFiles(sam2_files.checkpoint, str(sam2_files.config)), "cpu", runtime)
    nothing = cutout("export", "builtin")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "leaves no choice of engines" in nothing.stderr
    refused = cutout("export", "sam2", "--engine=openvino", "--precision=int8")
    assert refused.returncode == 1
    assert "expected one of" in refused.stderr
