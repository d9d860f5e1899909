"""Matrix products by oneDNN are PyTorch's own."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from cutout_server.models.onednn import linear, product
from torch.nn import functional


@pytest.mark.parametrize("gradients", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [(), (5,), (2, 3), (2, 4, 4), (0,)], ids=str)
def test_linear(rows: tuple[int, ...], dtype: torch.dtype, gradients: Callable[[], AbstractContextManager[object]]):
    """Of any rank, of none, of views, with a bias and without."""
    generator = torch.Generator().manual_seed(0)
    twice = torch.randn(*rows, 32, generator=generator).to(dtype)
    weight, bias = (torch.randn(8, *shape, generator=generator).to(dtype) for shape in ((16,), ()))
    with gradients():
        for values in (twice[..., :16], twice[..., ::2]):
            for added in (None, bias):
                torch.testing.assert_close(linear(values, weight, added), functional.linear(values, weight, added))


def test_gradients():
    """Whoever wants them gets them."""
    values, weight = torch.randn(3, 4), torch.randn(2, 4, requires_grad=True)
    linear(values, weight).sum().backward()
    torch.testing.assert_close(weight.grad, values.sum(0).expand(2, -1))


@torch.inference_mode()
def test_products():
    """Whatever the operands' layout, alone and in a batch, with what is added and without."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(3, *shape, generator=generator) for shape in ((5, 7), (7, 4)))
    addition = torch.randn(3, 5, 4, generator=generator)
    turned = left.transpose(1, 2).contiguous().transpose(1, 2), right.transpose(1, 2).contiguous().transpose(1, 2)
    for one, other in ((left, right), turned):
        for some in (slice(0, 1), slice(None)):
            torch.testing.assert_close(product(one[some], other[some]), one[some] @ other[some])
            before = addition.clone()
            expected = one[some] @ other[some] + addition[some]
            torch.testing.assert_close(product(one[some], other[some], addition[some]), expected)
            assert torch.equal(addition, before)
