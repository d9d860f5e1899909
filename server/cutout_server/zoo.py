"""The models that Cutout knows by name: where their weights are published, under which licence, and how large they are.

Checksums stand where they are published or widely reproduced; a hub's own files are checked against the hub's word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MB = 1_000_000


@dataclass(frozen=True)
class HubFile:
    """One file of a repository on the model hub.

    Attributes:
        repo: "owner/name"; "spaces/owner/name" for a space's.
        file: Its path there.
        sha256: Hexadecimal; empty where none is known.
        size_bytes: About; 0 where it is not known, here and below.
        revision: Branch, tag or commit.
    """

    repo: str
    file: str
    sha256: str = ""
    size_bytes: int = 0
    revision: str = "main"


@dataclass(frozen=True)
class HubFolder:
    """A repository as `save_pretrained` writes it.

    Attributes:
        repo: "owner/name".
        patterns: Which of its files are fetched; never pickles.
    """

    repo: str
    size_bytes: int = 0
    revision: str = "main"
    patterns: tuple[str, ...] = ("*.json", "*.txt", "*.model", "*.safetensors")


@dataclass(frozen=True)
class WebFile:
    """A file at an address of its own; its checksum is what makes it trustworthy."""

    url: str
    sha256: str
    size_bytes: int = 0


Source = HubFile | HubFolder | WebFile


@dataclass(frozen=True)
class KnownModel:
    """A model that settings and `cutout models pull` may name.

    Attributes:
        name: What they call it.
        family: See models/registry.py.
        source: Of its checkpoint.
        licence: An SPDX name where there is one.
        description: For people.
        gated: Whether its publisher wants the licence accepted and a token shown.
        config: See ModelFiles.
        companions: Sources of the family's further files.
    """

    name: str
    family: str
    source: Source
    licence: str
    description: str
    gated: bool = False
    config: str | None = None
    companions: Mapping[str, Source] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of everything that is downloaded, as far as it is known."""
        return sum(source.size_bytes for source in (self.source, *self.companions.values()))


_APACHE = "Apache-2.0"
_BERT = HubFolder("google-bert/bert-base-uncased", 1 * MB, patterns=("*.json", "*.txt"))
_MASK_DECODER = HubFile("spaces/google/paligemma-hf", "vae-oid.npz")
# A pipeline's parts lie in folders; what lies beside them is the same weights once more.
_PIPELINE = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors")


def _sam(size: str, file: str, sha256: str, size_bytes: int) -> KnownModel:
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    return KnownModel(f"sam-vit-{size}", "sam", WebFile(url, sha256, size_bytes), _APACHE, f"SAM 1, ViT-{size.upper()}")


def _sam2(version: str, size: str, suffix: str, sha256: str, size_bytes: int) -> KnownModel:
    stem = "sam2.1" if version == "2.1" else "sam2"
    repo, file = f"facebook/{stem}-hiera-{size}", f"{stem}_hiera_{size.replace('-', '_')}.pt"
    config = f"{stem}_hiera_{suffix}"
    source = HubFile(repo, file, sha256, size_bytes)
    return KnownModel(f"{stem}-{size}", "sam2", source, _APACHE, f"SAM {version}, Hiera {size}", config=config)


def _folder(name: str, family: str, repo: str, megabytes: int, licence: str, description: str) -> KnownModel:
    return KnownModel(name, family, HubFolder(repo, megabytes * MB), licence, description)


def _paligemma(resolution: int) -> KnownModel:
    return KnownModel(
        f"paligemma2-3b-{resolution}",
        "paligemma2",
        HubFolder(f"google/paligemma2-3b-mix-{resolution}", 6070 * MB),
        "Gemma",
        f"PaliGemma 2 mix, 3 B, {resolution} px: words to masks",
        gated=True,
        companions={"mask_decoder": _MASK_DECODER},
    )


KNOWN: dict[str, KnownModel] = {
    model.name: model
    for model in (
        _sam(
            "b", "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375_042_383
        ),
        _sam(
            "l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
        ),
        _sam(
            "h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
        ),
        _sam2("2", "tiny", "t", "", 156 * MB),
        _sam2("2", "small", "s", "", 184 * MB),
        _sam2("2", "base-plus", "b+", "", 324 * MB),
        _sam2("2", "large", "l", "", 898 * MB),
        _sam2("2.1", "tiny", "t", "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69", 156_008_466),
        _sam2("2.1", "small", "s", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38", 184 * MB),
        _sam2("2.1", "base-plus", "b+", "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5", 324 * MB),
        _sam2("2.1", "large", "l", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318", 898_083_611),
        _folder("sam-hq-vit-b", "sam-hq", "syscv-community/sam-hq-vit-base", 380, _APACHE, "SAM-HQ, ViT-B"),
        _folder("edgetam", "edgetam", "yonigozlan/EdgeTAM-hf", 56, _APACHE, "EdgeTAM: small and quick"),
        KnownModel(
            "sam3",
            "sam3",
            HubFolder("facebook/sam3", 3440 * MB),
            "SAM License",
            "SAM 3: concepts, examples, boxes and points to masks",
            gated=True,
        ),
        _folder(
            "grounding-dino-tiny",
            "grounding-dino",
            "IDEA-Research/grounding-dino-tiny",
            689,
            _APACHE,
            "Grounding DINO, Swin-T: any words to boxes",
        ),
        _folder(
            "grounding-dino-base",
            "grounding-dino",
            "IDEA-Research/grounding-dino-base",
            933,
            _APACHE,
            "Grounding DINO, Swin-B: any words to boxes",
        ),
        KnownModel(
            "grounding-dino-tiny-official",
            "grounding-dino-official",
            HubFile(
                "ShilongLiu/GroundingDINO",
                "groundingdino_swint_ogc.pth",
                "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
                693_997_677,
            ),
            _APACHE,
            "Grounding DINO, Swin-T, through its own package",
            companions={"text_encoder": _BERT},
        ),
        KnownModel(
            "grounding-dino-base-official",
            "grounding-dino-official",
            HubFile("ShilongLiu/GroundingDINO", "groundingdino_swinb_cogcoor.pth", "", 938 * MB),
            _APACHE,
            "Grounding DINO, Swin-B, through its own package",
            companions={"text_encoder": _BERT},
        ),
        _folder(
            "mm-grounding-dino-tiny",
            "mm-grounding-dino",
            "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det",
            691,
            _APACHE,
            "MM Grounding DINO, Swin-T: any words to boxes",
        ),
        _folder(
            "owlv2-base", "owlv2", "google/owlv2-base-patch16-ensemble", 620, _APACHE, "OWLv2, ViT-B: words to boxes"
        ),
        _folder(
            "owlv2-large", "owlv2", "google/owlv2-large-patch14-ensemble", 1750, _APACHE, "OWLv2, ViT-L: words to boxes"
        ),
        _paligemma(224),
        _paligemma(448),
        _folder("clip-vit-b-32", "clip", "openai/clip-vit-base-patch32", 605, "MIT", "CLIP, ViT-B/32: concepts"),
        _folder("clip-vit-l-14", "clip", "openai/clip-vit-large-patch14", 1710, "MIT", "CLIP, ViT-L/14: concepts"),
        _folder("siglip-base", "clip", "google/siglip-base-patch16-224", 813, _APACHE, "SigLIP, ViT-B/16: concepts"),
        KnownModel(
            "stable-diffusion-1.5",
            "stable-diffusion",
            HubFolder("stable-diffusion-v1-5/stable-diffusion-v1-5", 4270 * MB, patterns=_PIPELINE),
            "CreativeML-OpenRAIL-M",
            "Stable Diffusion 1.5: words to pictures, 512 px",
        ),
        KnownModel(
            "stable-diffusion-xl",
            "stable-diffusion",
            HubFolder("stabilityai/stable-diffusion-xl-base-1.0", 13900 * MB, patterns=_PIPELINE),
            "CreativeML-OpenRAIL++-M",
            "Stable Diffusion XL: words to pictures, 1024 px",
        ),
    )
}

# One word for a set of models; the built-in model is in each of them.
PROFILES: dict[str, tuple[str, ...]] = {
    "builtin": (),
    "small": ("sam2.1-tiny", "grounding-dino-tiny", "clip-vit-b-32"),
    "quality": ("sam2.1-large", "grounding-dino-base", "clip-vit-l-14"),
}
