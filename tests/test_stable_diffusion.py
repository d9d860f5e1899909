"""Stable Diffusion on small checkpoints: the pictures of the official pipelines, pixel for pixel."""

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.models.protocols import Generator
from cutout_server.models.queries import AbandonedError, GenerateQuery
from cutout_server.models.stable_diffusion import StableDiffusion, load
from cutout_server.models.stable_diffusion.folder import SCHEDULERS
from cutout_server.types import ModelFiles
from diffusers import AutoencoderKL, UNet2DConditionModel
from random_weights import scatter
from safetensors.torch import load_file, save_file
from stable_diffusion_checkpoints import PNDM, official, sd1, sdxl, small_unet, text_config  # noqa: F401 - fixtures
from transformers import CLIPTextModel

pytestmark = pytest.mark.slow

WORDS = "the cat on the dog"
LONG = "the cat and the dog on the " * 15 + "end"  # 108 tokens


def query(prompt: str = WORDS, negative: str = "", **changes: Any) -> GenerateQuery:
    values: dict[str, Any] = {"width": 0, "height": 0, "steps": 4, "guidance": 7.5, "seed": 3}
    values |= {"progress": lambda step: None, "cancelled": lambda: False}
    return GenerateQuery(prompt, negative, **values | changes)


def copy(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "pipeline"))


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def model(sd1: Path) -> StableDiffusion:  # noqa: F811
    return load(ModelFiles(sd1), "cpu")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    ("asked", "reference"),
    [
        ({}, {}),
        ({"negative": "dog"}, {"negative_prompt": "dog"}),
        ({"guidance": 1.0}, {"guidance_scale": 1.0}),
        ({"width": 64, "height": 136, "steps": 7, "seed": 2**64 - 1}, {"width": 64, "height": 136}),
        ({"prompt": "caf\u00e9 \u732b, <|endoftext|> 12 DOG'S", "steps": 1}, {}),
    ],
)
def test_equals_the_official_pipeline(
    request: pytest.FixtureRequest, family: str, asked: dict[str, Any], reference: dict[str, Any]
):
    """Words, negative words, guidance on and off, tall and square, one step and several: identical pixels."""
    folder = request.getfixturevalue(family)
    wanted = query(**asked)
    (ours,) = load(ModelFiles(folder), "cpu").generate([wanted])
    theirs = official(folder)(
        wanted.seed,
        prompt=wanted.prompt,
        num_inference_steps=wanted.steps,
        **{"guidance_scale": wanted.guidance} | reference,
    )
    assert ours.shape == (wanted.height or 96, wanted.width or 96, 3)
    assert ours.dtype == np.uint8
    assert ours.std() > 20
    np.testing.assert_array_equal(ours, theirs)


def test_everything_asked_for_matters(model: StableDiffusion):
    """Another prompt, negative prompt, guidance, seed or number of steps makes another picture."""
    queries = [
        query(),
        query("dog"),
        query(negative="dog"),
        query(guidance=3.0),
        query(seed=4),
        query(steps=5),
    ]
    pictures = model.generate(queries)
    for index, picture in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert np.abs(picture.astype(int) - other).mean() > 2


def test_the_seed_alone_decides(model: StableDiffusion):
    """Alone, in company and after others, one query has one picture, and global random state is left alone."""
    state = torch.get_rng_state()
    (alone,) = model.generate([query()])
    _, among, _ = model.generate([query("dog", seed=9), query(), query(steps=2)])
    np.testing.assert_array_equal(alone, among)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # Some schedulers predate NumPy 2.
@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_scheduler_of_a_folder(sd1: Path, tmp_path: Path, name: str):  # noqa: F811
    """The folder's scheduler is used; the answer is the official one, the same each time, and counts every step."""
    folder = copy(sd1, tmp_path)
    edit(folder, "model_index.json", lambda index: index.update(scheduler=["diffusers", name]))
    scheduler = getattr(diffusers, name)
    known = inspect.signature(scheduler.__init__).parameters
    settings = {key: value for key, value in (PNDM | {"clip_sample": False}).items() if key in known}
    scheduler(**settings).save_pretrained(folder / "scheduler")
    generator, done = load(ModelFiles(folder), "cpu"), []
    (ours,), (again,) = (generator.generate([query(steps=6, progress=done.append)]) for _ in range(2))
    np.testing.assert_array_equal(ours, official(folder)(3, prompt=WORDS, num_inference_steps=6))
    np.testing.assert_array_equal(ours, again)
    assert done == [1, 2, 3, 4, 5, 6] * 2


def test_outdated_scheduler_settings(sd1: Path, tmp_path: Path):  # noqa: F811
    """The two settings that the official pipeline corrects with a warning are corrected without one."""
    folder = copy(sd1, tmp_path)
    edit(folder, "model_index.json", lambda index: index.update(scheduler=["diffusers", "DDIMScheduler"]))
    diffusers.DDIMScheduler(steps_offset=0, clip_sample=True).save_pretrained(folder / "scheduler")
    (ours,) = load(ModelFiles(folder), "cpu").generate([query()])
    with pytest.warns(FutureWarning, match="outdated|clip_sample"):
        theirs = official(folder)
    np.testing.assert_array_equal(ours, theirs(3, prompt=WORDS, num_inference_steps=4))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_long_prompts_are_read_to_the_end(request: pytest.FixtureRequest, family: str):
    """Beyond 77 tokens: parts of 75, each encoded by itself and joined, as the official pipeline takes them."""
    folder = request.getfixturevalue(family)
    generator, make = load(ModelFiles(folder), "cpu"), official(folder)
    pipeline, embeds = make.pipeline, {}
    tokens = pipeline.tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
    assert len(tokens) == 108
    texts = [pipeline.tokenizer.decode(part) for part in (tokens[:75], tokens[75:])]
    first, second = (
        pipeline.encode_prompt(
            prompt=text, negative_prompt=other, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        for text, other in zip(texts, ("dog", ""), strict=True)
    )
    embeds["prompt_embeds"], embeds["negative_prompt_embeds"] = (
        torch.cat(pair, dim=1) for pair in zip(first[:2], second[:2], strict=True)
    )
    embeds |= dict(zip(("pooled_prompt_embeds", "negative_pooled_prompt_embeds"), first[2:], strict=False))
    (ours,) = generator.generate([query(LONG, "dog")])
    theirs = make(3, **embeds, num_inference_steps=4, guidance_scale=7.5)
    np.testing.assert_array_equal(ours, theirs)
    (other_end,) = generator.generate([query(LONG.replace("end", "cat"), "dog")])
    assert np.abs(ours.astype(int) - other_end).mean() > 0.5


def test_a_long_negative_prompt(model: StableDiffusion):
    """The shorter prompt is filled up, whichever it is, and the end of the longer one counts."""
    one, other = model.generate([query("cat", LONG), query("cat", LONG.replace("end", "dog"))])
    assert np.abs(one.astype(int) - other).mean() > 0.5


@pytest.mark.parametrize("steps_done", [0, 1, 3])
def test_work_ends_when_nobody_waits(model: StableDiffusion, steps_done: int):
    """Once `cancelled` says so no further step is taken, and the next query is none the worse for it."""
    done: list[int] = []
    with pytest.raises(AbandonedError):
        model.generate([query(steps=5, progress=done.append, cancelled=lambda: len(done) == steps_done)])
    assert done == list(range(1, steps_done + 1))
    np.testing.assert_array_equal(*(model.generate([query()])[0] for _ in range(2)))


def test_steps_that_the_scheduler_cannot_take(sd1: Path, tmp_path: Path):  # noqa: F811
    """More steps than the scheduler knows are an error that names the field."""
    folder = copy(sd1, tmp_path)
    edit(folder, "model_index.json", lambda index: index.update(scheduler=["diffusers", "LCMScheduler"]))
    diffusers.LCMScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(InvalidRequestError, match="steps: this generator's scheduler cannot take 60"):
        load(ModelFiles(folder), "cpu").generate([query(steps=60)])


def test_it_is_a_generator(model: StableDiffusion, sd1: Path):  # noqa: F811
    """It fills the Protocol in, and its bytes are those of the official pipeline's weights."""
    assert isinstance(model, Generator)
    pipeline = official(sd1).pipeline
    weights = [each for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder) for each in part.parameters()]
    assert model.nbytes == pytest.approx(sum(each.nbytes for each in weights), rel=0.01)


def refuse(folder: Path, match: str, **files: Any) -> None:
    with pytest.raises(FailedPreconditionError, match=match):
        load(ModelFiles(folder, **files), "cpu")


@pytest.mark.parametrize(
    ("part", "value", "match"),
    [
        ("unet", ["evil", "Unet"], r"unet is \['evil', 'Unet'\]; expected diffusers.UNet2DConditionModel"),
        ("unet", ["diffusers", "AutoencoderKL"], "expected diffusers.UNet2DConditionModel"),
        ("scheduler", ["evil", "PNDMScheduler"], "expected diffusers.DDIMScheduler or"),
        ("scheduler", ["diffusers", "DPMSolverSDEScheduler"], "expected diffusers.DDIMScheduler or"),
        ("helper", ["evil", "Helper"], "expected no such part"),
        ("tokenizer", ["transformers"], "expected transformers.CLIPTokenizer"),
        ("_class_name", ["evil", "Pipeline"], r"is a \['evil', 'Pipeline'\]; expected StableDiffusionPipeline or"),
        ("_class_name", "FluxPipeline", "is a 'FluxPipeline'"),
    ],
)
def test_foreign_classes_are_refused(sd1: Path, tmp_path: Path, part: str, value: Any, match: str):  # noqa: F811
    """What model_index.json names is compared and never imported."""
    folder = copy(sd1, tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    edit(folder, "model_index.json", lambda index: index.update({part: value}))
    refuse(folder, match)
    assert "evil" not in sys.modules


def test_a_safety_checker_is_not_looked_for(sd1: Path, tmp_path: Path):  # noqa: F811
    """Folders that name one are loaded without it, whether its files are there or not."""
    folder = copy(sd1, tmp_path)
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit(folder, "model_index.json", lambda index: index.update(safety_checker=checker))
    assert load(ModelFiles(folder), "cpu").generate([query(steps=1)])[0].shape == (96, 96, 3)


def test_the_first_official_names(model: StableDiffusion, sd1: Path, tmp_path: Path):  # noqa: F811
    """Names of weights as the first releases have them, in the text encoder and the VAE, are understood."""
    folder = copy(sd1, tmp_path)
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path, {"format": "pt"})
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        weights = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): v for name, v in weights.items()}
    assert any("attentions.0.query." in name for name in weights)
    save_file(weights, path, {"format": "pt"})
    np.testing.assert_array_equal(load(ModelFiles(folder), "cpu").generate([query()])[0], model.generate([query()])[0])


def test_folders_that_cannot_be_used(sd1: Path, tmp_path: Path):  # noqa: F811
    """No folder, parts that are missing, truncated, pickled or of other shapes: an error that says what to do."""
    refuse(tmp_path / "none", "is not a folder: expected one with model_index.json")
    refuse(tmp_path, "has no readable model_index.json: download the whole folder")
    refuse(sd1, "config must not be set", config="sd1")

    folder = copy(sd1, tmp_path / "1")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refuse(folder, "unet cannot be loaded")
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    refuse(folder, "unet cannot be loaded")

    folder = copy(sd1, tmp_path / "2")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refuse(folder, "vae (is damaged|cannot be loaded)")

    folder = copy(sd1, tmp_path / "3")
    edit(folder, "unet/config.json", lambda config: config.update(layers_per_block=2))
    refuse(folder, "unet (does not fit its config.json|cannot be loaded)")

    folder = copy(sd1, tmp_path / "4")
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{")
    refuse(folder, "no readable CLIPTokenizer")

    folder = copy(sd1, tmp_path / "5")
    edit(folder, "model_index.json", lambda index: index.pop("vae"))
    refuse(folder, "lacks vae")

    folder = copy(sd1, tmp_path / "6")
    edit(folder, "scheduler/scheduler_config.json", lambda config: config.update(beta_schedule="none"))
    refuse(folder, "scheduler that cannot be made")


@pytest.mark.parametrize(
    "unet", [{"cross_attention_dim": 40}, {"in_channels": 9}, {"addition_embed_type": "text"}], ids=str
)
def test_parts_that_do_not_fit_each_other(sd1: Path, tmp_path: Path, unet: dict[str, Any]):  # noqa: F811
    """A UNet of another model, or one that paints into pictures, is found out at loading."""
    folder = copy(sd1, tmp_path)
    small_unet(**unet, **({"encoder_hid_dim": 40} if "addition_embed_type" in unet else {})).save_pretrained(
        folder / "unet"
    )
    refuse(folder, "parts of the checkpoint do not fit each other")


@pytest.mark.full_size(gigabytes=6)
def test_full_size(sd1: Path, tmp_path: Path):  # noqa: F811
    """Stable Diffusion 1.5 with random weights: its number of parameters, its memory, a picture of 128 pixels."""
    folder = copy(sd1, tmp_path)
    # Orthodox initial values would take most of the test's time.
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                sample_size=512,
            ),
            "text_encoder": CLIPTextModel(
                text_config(768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408)
            ),
        }
    counts = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
    assert counts == {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    for name in list(parts):
        part = parts.pop(name).to_empty(device="cpu")
        scatter(part)
        part.save_pretrained(folder / name, max_shard_size="10GB")
        del part
    model = load(ModelFiles(folder), "cpu")
    assert model.nbytes == pytest.approx(4 * sum(counts.values()), rel=1e-3)
    (picture,) = model.generate([query(width=128, height=128, steps=1)])
    assert picture.shape == (128, 128, 3)
    assert picture.std() > 1
