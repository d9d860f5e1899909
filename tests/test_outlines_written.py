"""Outlines as messages: as many as there are, without holding up whoever else waits for the event loop."""

import asyncio
from functools import partial

import numpy as np
import pytest
from cutout_server.convert import responses
from cutout_server.services.answers import written
from cutout_server.types import Polygon, PolygonMask

SQUARE = np.array([[1, 2], [3, 2], [3, 4.5], [1, 4.5]], np.float32)


def mask_of(parts: int, vertices: int = 4) -> PolygonMask:
    outline = np.resize(SQUARE, (vertices, 2))
    return PolygonMask(100, 200, (Polygon(outline, (outline[::-1],)),) * parts, 0.5, 3)


def test_vertices_are_written_as_they_are():
    """In any layout and byte order that NumPy has."""
    for outline in (SQUARE, np.asfortranarray(SQUARE), SQUARE.astype(">f4"), np.zeros((0, 2), np.float32)):
        polygons = responses.write_mask(PolygonMask(9, 9, (Polygon(outline, (outline[::-1],)),))).polygons.polygons
        assert list(polygons[0].exterior.coordinates) == outline.ravel().tolist()
        assert list(polygons[0].holes[0].coordinates) == outline[::-1].ravel().tolist()


async def test_many_outlines_let_others_through():
    """On the event loop they would let nobody."""
    mask, ticks = mask_of(20_000), 0
    writing = asyncio.ensure_future(written(partial(responses.write_mask, mask), [mask]))
    while not writing.done():
        await asyncio.sleep(0)
        ticks += 1
    assert ticks > 3
    assert len((await writing).polygons.polygons) == 20_000


async def test_few_outlines_are_written_at_once():
    """However long they are: no thread is asked."""
    mask = mask_of(2, 500_000)
    with pytest.raises(StopIteration) as done:
        written(partial(responses.write_mask, mask), [mask]).send(None)
    assert len(done.value.value.polygons.polygons[0].exterior.coordinates) == 1_000_000
