"""The order of turns, pass by pass: requests are lists of passes here, and each pass is a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import pytest
from cutout_server.pools.fair_queue import PATIENT, FairQueue, Turn

BOX = ("encode", "decode", "masks")
PASSES = 16  # Of 64 objects, four at a time.
FRAME = ("encode", *["track"] * PASSES, "masks")
FOREVER = float("inf")


@dataclass(eq=False)
class Request:
    """What is left of it to be served."""

    name: str
    turn: Turn
    left: list[str]


class Device:
    """Serves the request that is next, one pass at a time; what was served goes on at once."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.requests: list[Request] = []
        self.served: list[str] = []

    def come(
        self, name: str, passes: Sequence[str] = BOX, *, caller: str = "one", deadline_s: float = FOREVER
    ) -> Request:
        request = Request(name, self.queue.take(caller, deadline_s), list(passes))
        self.requests.append(request)
        return request

    def leave(self, request: Request) -> None:
        self.requests.remove(request)
        self.queue.give_back(request.turn)

    def serve(self, passes: int = 1) -> None:
        for _ in range(passes):
            request = min(self.requests, key=lambda each: self.queue.order(each.turn, each.left[0]))
            self.queue.begin(request.turn, kind=request.left.pop(0))
            self.served.append(request.name)
            if not request.left:
                self.leave(request)

    def until_done(self, request: Request) -> list[str]:
        """What was served until a request was over, of others."""
        before = len(self.served)
        while request in self.requests:
            self.serve()
        return [name for name in self.served[before:] if name != request.name]


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.mark.parametrize("caller", ["one", "other"])
@pytest.mark.parametrize(("frames", "most"), [(1, 1), (4, 3)])
def test_frames_of_many_objects_are_not_waited_for(frames: int, most: int, caller: str):
    """Whenever a box comes, of the same caller or of another: what goes on with a quantum is first, and one quantum."""
    for begun in range(1, frames * len(FRAME)):
        device = Device()
        for number in range(frames):
            device.come(f"frame {number}", FRAME)
        device.serve(begun)
        assert len(device.until_done(device.come("box", caller=caller, deadline_s=60.0))) <= most


def test_frames_share_a_device_pass_by_pass(device: Device):
    """None is done long before the others, and none has a second pass before each has had one."""
    for number in range(4):
        device.come(f"frame {number}", FRAME)
    device.serve(4 * len(FRAME))
    tracked = [name for name in device.served if device.served.count(name) == len(FRAME)]
    assert len(tracked) == 4 * len(FRAME)
    middle = device.served[8 : 4 * PASSES]
    assert all(len(set(middle[start : start + 4])) == 4 for start in range(0, len(middle), 4))


@pytest.mark.parametrize("boxes", [1, 2, 12])
def test_a_frame_is_done_beside_boxes_without_end(device: Device, boxes: int):
    """So many of its caller's wait at any time, all of them to be done sooner: it has its pass within the bound."""
    frame = device.come("frame", FRAME)
    numbers = count()

    def refill() -> None:
        while len(device.requests) < 1 + boxes:
            device.come(f"box {next(numbers)}", deadline_s=60.0)

    waits, waited = [], 0
    while frame in device.requests:
        refill()
        device.serve()
        waited += 1
        if device.served[-1] == "frame":
            waits.append(waited)
            waited = 0
    assert max(waits) <= PATIENT * (boxes + 1) * len(BOX)


@pytest.mark.parametrize("callers", [1, 2, 12])
def test_a_frame_is_done_beside_callers_without_end(device: Device, callers: int):
    """Each of them comes once, and so many wait at any time: between two passes each has its box at most."""
    frame = device.come("frame", FRAME)
    numbers = count()
    waits, waited = [], 0
    while frame in device.requests:
        while len(device.requests) < 1 + callers:
            number = next(numbers)
            device.come("box", caller=f"caller {number}", deadline_s=60.0)
        device.serve()
        waited += 1
        if device.served[-1] == "frame":
            waits.append(waited)
            waited = 0
    assert max(waits) <= (callers + 1) * len(BOX) + 1


def test_a_frame_of_one_caller_is_done_beside_anothers_boxes(device: Device):
    """They take turns, a box for a pass, however many boxes wait."""
    frame = device.come("frame", FRAME)
    for number in range(2 * PASSES):
        device.come(f"box {number}", caller="other", deadline_s=60.0)
    between = device.until_done(frame)
    assert len(between) <= len(BOX) * len(FRAME)


def test_boxes_come_first_however_soon_a_video_is_to_be_done(device: Device):
    """A deadline makes the first of one caller's requests that were not served yet; one that goes on waits its turn."""
    device.come("video", FRAME, deadline_s=1.0)
    device.serve(4)
    assert len(device.until_done(device.come("box", deadline_s=60.0))) <= 1


def test_whoever_leaves_makes_room(device: Device):
    """In the middle of its frame; its caller's others, and those of others, go on as if it had not been."""
    leaver, stayer = device.come("leaver", FRAME), device.come("stayer", FRAME)
    box = device.come("box", caller="other")
    device.serve(7)
    device.leave(leaver)
    device.served.clear()
    device.until_done(stayer)
    assert box not in device.requests
    assert "leaver" not in device.served
    device.until_done(device.come("next"))
    assert not device.requests
    assert device.served[-3:] == ["next"] * 3


def test_a_last_pass_may_come_when_its_request_is_over(device: Device):
    """Others may wait for what it began; it takes nobody's place."""
    over = device.come("over")
    device.queue.give_back(over.turn)
    other = device.come("other")
    device.queue.begin(over.turn, kind="encode")
    device.requests.remove(over)
    assert device.until_done(other) == []
    assert device.until_done(device.come("last")) == []


def test_passes_that_others_join_use_up_no_patience(device: Device):
    """The longest waiting is not passed over because three more are served with each that is next."""
    waiting = device.come("waiting", ("masks",))
    for _ in range(PATIENT):
        batch = [device.come("batch", ("decode",), deadline_s=60.0) for _ in range(4)]
        batch.sort(key=lambda each: device.queue.order(each.turn, "decode"))
        first = min([waiting, *batch], key=lambda each: device.queue.order(each.turn, each.left[0]))
        if first is waiting:
            return
        device.queue.begin(*(each.turn for each in batch), kind="decode")
        for each in batch:
            device.leave(each)
    pytest.fail("it starves")
