"""Matrix products of float32 on the CPU by oneDNN, which uses all of the vector registers.

PyTorch multiplies float32 matrices by MKL, which leaves AVX-512 unused on other processors than Intel's: half the
speed. oneDNN has the same precision and no public function but the operator that compiled models call.
"""

import torch
from torch import Tensor
from torch.nn import functional

_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # noqa: SLF001


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `torch.nn.functional.linear` computes.

    Args:
        values: (..., K) float.
        weight: (M, K) of the same dtype.
        bias: (M,) of the same dtype.

    Returns:
        (..., M) of the same dtype.
    """
    if not _suits(values):
        return functional.linear(values, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")  # noqa: SLF001
    return result


def product(left: Tensor, right: Tensor, addition: Tensor | None = None) -> Tensor:
    """Multiplies matrices, to which others are added.

    Args:
        left: (B, N, K) float.
        right: (B, K, M) float.
        addition: (B, N, M) float.

    Returns:
        (B, N, M) float.
    """
    if not (len(left) == 1 and _suits(left)):
        return torch.bmm(left, right) if addition is None else torch.baddbmm(addition, left, right)
    rows, columns = left[0], right[0].T
    if addition is None:
        return linear(rows, columns)[None]
    result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, addition[0], columns, None, "add")  # noqa: SLF001
    return result[None]


def _suits(values: Tensor) -> bool:
    # The operator knows no gradients.
    is_float = values.device.type == "cpu" and values.dtype == torch.float32
    return _ONEDNN and is_float and not torch.is_grad_enabled()
