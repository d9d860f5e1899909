"""Answers that take long to write: in processes of their own, so that nobody else waits for them."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from functools import partial

import pytest
from cutout_gateway.answer_writer import AnswerWriter
from cutout_gateway.compat.perceptra_seg import many_answer
from cutout_gateway.descriptors import Contract
from cutout_gateway.errors import HttpError
from cutout_gateway.processes import Processes
from cutout_gateway.routes import Binding, Routes
from cutout_gateway.transcode import piece, render
from google.protobuf.message import Message

CONTRACT = Contract.load()
ROUTES = Routes(CONTRACT)
OBJECTS = 300


def binding_of(method: str) -> Binding:
    return next(binding for binding in ROUTES.bindings if binding.rpc.full_name.endswith(f".{method}"))


BOX = binding_of("SegmentByBox")
STREAM = binding_of("StreamSegmentation")


def outlines(coordinates: int) -> Message:
    """Half a second of JSON, or next to none."""
    response = CONTRACT.message("cutout.v1.SegmentByBoxResponse")
    for _ in range(OBJECTS):
        polygon = response.segmentation.objects.add().masks.add().polygons.polygons.add()
        polygon.exterior.coordinates.extend(range(coordinates))
    return response


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes(CONTRACT, ROUTES)
    yield processes
    processes.close()


@pytest.fixture
def writer(processes: Processes) -> AnswerWriter:
    return AnswerWriter(processes, CONTRACT.pool)


async def test_others_go_on_while_a_large_answer_is_written(writer: AnswerWriter):
    """Written on the event loop, it would let none of them through."""
    message, ticks = outlines(1000), 0
    writing = asyncio.ensure_future(writer.whole(BOX, message))
    while not writing.done():
        await asyncio.sleep(0)
        ticks += 1
    assert ticks > 3
    assert await writing == render(BOX, message, CONTRACT.pool)


async def test_a_piece_of_a_stream_is_written_there_too(writer: AnswerWriter):
    message = CONTRACT.message("cutout.v1.StreamSegmentationResponse")
    message.object.masks.add().polygons.polygons.add().exterior.coordinates.extend(range(3000))
    before = set(multiprocessing.active_children())
    assert await writer.piece(STREAM, message) == piece(STREAM, message, CONTRACT.pool)
    assert set(multiprocessing.active_children()) - before


async def test_answers_in_a_neighbours_form_are_written_there_too(writer: AnswerWriter):
    """In a thread, JSON of millions of numbers would hold up everybody: it is written in one go."""
    before = set(multiprocessing.active_children())
    response = outlines(100)
    response.segmentation.models.append("builtin")
    answer = partial(many_answer, "all", 1, ("polygons",), request_id="42")
    assert await writer.call(answer, response) == answer(response)
    assert set(multiprocessing.active_children()) - before


async def test_small_answers_are_written_at_once(writer: AnswerWriter):
    """A megabyte of one mask, or some hundred values: no process begins for that."""
    before = set(multiprocessing.active_children())
    message = outlines(1)
    assert await writer.whole(BOX, message) == render(BOX, message, CONTRACT.pool)
    message = CONTRACT.message("cutout.v1.SegmentByBoxResponse")
    message.segmentation.objects.add().masks.add().png = bytes(1_000_000)
    await writer.whole(BOX, message)
    assert set(multiprocessing.active_children()) <= before


async def test_a_writing_process_that_is_killed_is_told_and_replaced(writer: AnswerWriter):
    before = set(multiprocessing.active_children())
    message = outlines(10)
    expected = await writer.whole(BOX, message)
    for process in set(multiprocessing.active_children()) - before:
        process.kill()
        process.join()
    with pytest.raises(HttpError) as lost:
        await writer.whole(BOX, message)
    assert lost.value.http_status == 503
    assert "wrote the answer" in lost.value.status.message
    assert await writer.whole(BOX, message) == expected
