"""The decoder that turns PaliGemma's sixteen mask tokens into a mask.

It is the decoding half of a VQ-VAE that was trained on the masks of Open Images (https://arxiv.org/abs/2301.02229). Its
layers are those of `Decoder` in big_vision's evaluators/proj/paligemma/transfers/segmentation.py; its weights are the
public file vae-oid.npz, which has them under the names and in the layout of PyTorch.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import differences

CODEBOOK = 128

# The published file may be compressed; a small one that unpacks to more than this was made to fill the memory.
_MAX_UNPACKED_BYTES = 256 * 1024 * 1024
_CODEBOOK_KEY = "_vq_vae._embedding"
_SOURCE = "download vae-oid.npz from gs://big_vision/paligemma, where PaliGemma's authors keep it"


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return x + y


class MaskDecoder(nn.Module):
    """Mask tokens to masks. It stays on the CPU, where a mask takes it a millisecond.

    Args:
        width: Of the codebook's vectors.
    """

    codebook: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.zeros(CODEBOOK, width))
        layers: list[nn.Module] = [nn.Conv2d(width, 128, 1), nn.ReLU(), _Residual(128), _Residual(128)]
        for inside, outside in ((128, 128), (128, 64), (64, 32), (32, 16)):
            layers += [nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1), nn.ReLU()]
        # The names of the layers are those in the file.
        self.decoder = nn.Sequential(*layers, nn.Conv2d(16, 1, 1))

    @torch.inference_mode()
    def masks(self, codes: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, 64, 64) float32, about -1 outside and about 1 inside, for N times 16 codes in [0, 128)."""
        if not codes:
            return np.zeros((0, 64, 64), np.float32)
        vectors = functional.embedding(torch.tensor(codes), self.codebook)
        grid = vectors.view(len(codes), 4, 4, -1).permute(0, 3, 1, 2)
        decoded: NDArray[np.float32] = self.decoder(grid)[:, 0].numpy()
        return decoded


def read_mask_decoder(path: Path | None) -> MaskDecoder:
    """Reads the file. Nothing in it is unpickled, and its encoder is left unread.

    Raises:
        FailedPreconditionError: There is no such file, or it is another one.
    """
    if path is None or not path.is_file():
        raise FailedPreconditionError(f"mask_decoder {path} is not a file: {_SOURCE}, or correct the path")
    arrays = {}
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FailedPreconditionError(f"mask_decoder {path} is a single array: {_SOURCE}")
            with zipfile.ZipFile(path) as index:
                unpacked = sum(entry.file_size for entry in index.infolist())
            if unpacked > _MAX_UNPACKED_BYTES:
                raise FailedPreconditionError(
                    f"mask_decoder {path} would take {unpacked} bytes, the published one tens of megabytes: {_SOURCE}"
                )
            for key in archive.files:
                if key == _CODEBOOK_KEY or key.startswith("decoder."):
                    arrays[key.replace(_CODEBOOK_KEY, "codebook")] = archive[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise FailedPreconditionError(f"mask_decoder {path} is damaged, or no npz file: {_SOURCE}") from error
    return _fitted(path, arrays)


def _fitted(path: Path, arrays: dict[str, NDArray[np.generic]]) -> MaskDecoder:
    codebook = arrays.get("codebook")
    decoder = MaskDecoder(codebook.shape[1] if codebook is not None and codebook.ndim == 2 and codebook.size else 1)
    expected = decoder.state_dict()
    faults = differences(
        missing=expected.keys() - arrays.keys(),
        unexpected=arrays.keys() - expected.keys(),
        other_shape=(key for key in expected.keys() & arrays.keys() if expected[key].shape != arrays[key].shape),
        not_numbers=(key for key, array in arrays.items() if array.dtype.kind != "f"),
    )
    if faults:
        raise FailedPreconditionError(f"mask_decoder {path} is another file ({faults}): {_SOURCE}")
    decoder.load_state_dict({key: torch.from_numpy(array.astype(np.float32)) for key, array in arrays.items()})
    return decoder.eval().requires_grad_(requires_grad=False)
