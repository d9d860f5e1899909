"""Deformable attention (https://arxiv.org/abs/2010.04159) as weighted sums of rows of a table."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cutout_server.models.grounding_dino.layers import linear

Shapes = Sequence[tuple[int, int]]

_CHUNK = 1024  # Queries; what is computed of so many stays in a core's cache.


class Places:
    """Where the values of each level lie in the table, for each sample of a query: (heads * levels * points,) each.

    Args:
        shapes: (height, width) of each level's map.
        heads: Of the attention.
        points: That each head looks at in each level.
        device: Where it is to be.
    """

    def __init__(self, shapes: Shapes, heads: int, points: int, device: torch.device) -> None:
        starts = [0]
        for height, width in shapes[:-1]:
            starts.append(starts[-1] + height * width)

        def spread(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).repeat_interleave(points).repeat(heads)

        self.sides = torch.stack([spread([width for _, width in shapes]), spread([height for height, _ in shapes])])
        self.last = (self.sides - 2).clamp(min=0)
        # Of the value beside the first: a map of one row or column has none, and all are too far from it.
        self.beside = torch.where(self.sides > 1, 1.0, torch.inf)
        head = torch.arange(heads, dtype=torch.float32, device=device).repeat_interleave(len(shapes) * points)
        self.start = spread(starts) * heads + head
        self.row = self.sides[0] * heads
        self.step_x = ((self.sides[0] > 1) * heads).long()
        self.step_y = ((self.sides[1] > 1) * self.row).long()
        self.heads = heads


class DeformableAttention:
    """The attention with its samples gathered by `embedding_bag`: no map is brought into another order for it.

    Args:
        attention: A GroundingDinoMultiscaleDeformableAttention, or MM Grounding DINO's; its parameters are shared but
            for those that say where to look, which are reordered: all x, then all y, then the weights.
    """

    def __init__(self, attention: Any) -> None:
        self.heads: int = attention.n_heads
        self.points: int = attention.n_points
        self._per_head: int = attention.n_levels * attention.n_points
        self._value, self._output = attention.value_proj, attention.output_proj
        offsets, weights = attention.sampling_offsets, attention.attention_weights
        self._where = torch.cat([offsets.weight[0::2], offsets.weight[1::2], weights.weight])
        self._where_bias = torch.cat([offsets.bias[0::2], offsets.bias[1::2], weights.bias])

    def __call__(
        self, queries: Tensor, values: Tensor, centres: Tensor, scales: Tensor | None, places: Places
    ) -> Tensor:
        """Attends.

        Args:
            queries: (N, Q, C), with their positions.
            values: (N, S, C) of all levels, one after the other.
            centres: (N or 1, Q, 2, 1, levels * points), x and y in pixels of each level; 0 is the first one's middle.
            scales: What the offsets are multiplied by, of the same shape; None for 1.
            places: Of the levels.

        Returns:
            (N, Q, C) in the layers' dtype.
        """
        tables = linear(values, self._value).float()
        found = linear(queries, self._where, self._where_bias).float()
        answer = torch.empty_like(found[..., : tables.shape[-1]])
        chunk = _CHUNK if queries.device.type == "cpu" else queries.shape[1]
        for picture, table in enumerate(tables):
            own_centres = centres[picture if len(centres) > 1 else 0]
            for first in range(0, queries.shape[1], chunk):
                part = slice(first, first + chunk)
                scale = None if scales is None else scales[picture if len(scales) > 1 else 0, part]
                answer[picture, part] = self._sample(table, found[picture, part], own_centres[part], scale, places)
        return linear(answer, self._output)

    def _sample(self, table: Tensor, found: Tensor, centres: Tensor, scales: Tensor | None, places: Places) -> Tensor:
        count, samples = len(found), self.heads * self._per_head
        where = found[:, : 2 * samples].view(count, 2, self.heads, self._per_head)
        where = where + centres if scales is None else torch.addcmul(centres, where, scales)
        where = where.view(count, 2, samples)
        corner = where.floor().clamp_(torch.zeros_like(places.last), places.last)
        where -= corner
        # Bilinear weights: 1 at the value, 0 at its neighbours and beyond; outside the map there is nothing.
        first = (1 - where.abs()).clamp_(min=0)
        second = (1 - (where - places.beside).abs_()).clamp_(min=0)
        shares = found[:, 2 * samples :].view(count, self.heads, self._per_head).softmax(-1).view(count, samples)
        rows = torch.addcmul(places.start, corner[:, 1], places.row).add_(corner[:, 0], alpha=places.heads).long()

        shape = (count, self.heads, 4, self._per_head)
        weights, index = torch.empty(shape, device=table.device), rows.new_empty(shape)
        left, right = shares * first[:, 0], shares * second[:, 0]
        below = rows + places.step_y
        for place, (columns, lines, own) in enumerate(
            (
                (left, first, rows),
                (right, first, rows + places.step_x),
                (left, second, below),
                (right, second, below + places.step_x),
            )
        ):
            torch.mul(
                columns.view_as(weights[:, :, 0]), lines[:, 1].view_as(weights[:, :, 0]), out=weights[:, :, place]
            )
            index[:, :, place] = own.view_as(index[:, :, 0])
        size = table.shape[-1] // self.heads
        bags = functional.embedding_bag(
            index.view(count * self.heads, -1),
            table.view(-1, size),
            per_sample_weights=weights.view(count * self.heads, -1),
            mode="sum",
        )
        return bags.view(count, self.heads * size)
