"""Matrix products of float32 on the CPU by oneDNN, which uses all of the vector registers.

PyTorch multiplies float32 matrices by MKL, which leaves AVX-512 unused on other processors than Intel's: half the
speed. oneDNN has the same precision and no public function but the operator that compiled models call.
"""

import torch
from torch import Tensor

_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # noqa: SLF001


def product(left: Tensor, right: Tensor, addition: Tensor | None = None) -> Tensor:
    """Multiplies matrices, to which others are added.

    Args:
        left: (B, N, K) float.
        right: (B, K, M) float.
        addition: (B, N, M) float.

    Returns:
        (B, N, M) float.
    """
    if not (_ONEDNN and len(left) == 1 and left.device.type == "cpu" and left.dtype == torch.float32):
        return torch.bmm(left, right) if addition is None else torch.baddbmm(addition, left, right)
    rows, columns = left[0], right[0].T
    if addition is None:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, columns, None, "none", [], "")  # noqa: SLF001
    else:
        result = torch.ops.mkldnn._linear_pointwise.binary(rows, addition[0], columns, None, "add")  # noqa: SLF001
    return result[None]
