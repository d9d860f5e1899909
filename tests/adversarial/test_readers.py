"""Callers who take a seat and do nothing with it."""

import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import encode
from cutout.v1 import image_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout.v1 import segmentation_service_pb2_grpc as pb2_grpc
from waiting import PATIENCE_S, wait_until

from adversarial.good_caller import GoodCaller
from adversarial.stack import BAD, running
from tools import FIXED_WINDOW

pytestmark = pytest.mark.slow


def test_answers_that_nobody_reads(tmp_path: Path):
    """Four times as many streams as there are seats, none of which is read: others are served, and the streams end."""
    side = 1_500
    picture = encode(np.zeros((side, side, 3), np.uint8), ".png")
    box = mask_pb2.Box(x_min=20, y_min=20, x_max=side - 50, y_max=side - 50)
    options = segmentation_pb2.SegmentationOptions(mask_formats=[mask_pb2.MASK_FORMAT_BITS])
    one = pb2.SegmentByBoxRequest(image=image_pb2.Image(content=picture), boxes=[box] * 40, options=options)
    request = pb2.StreamSegmentationRequest(box=one)
    seats = {"max_requests_per_device": 2, "max_stall_s": 1.0}
    with running(tmp_path, seats) as stack, GoodCaller(stack) as good_caller, stack.channel(FIXED_WINDOW) as channel:
        good_caller.is_served(1)
        stub = pb2_grpc.SegmentationServiceStub(channel)
        over = threading.Event()

        def open_and_leave_unread() -> None:
            while not over.is_set():
                stream = stub.StreamSegmentation(request, metadata=(("x-api-key", BAD),), timeout=PATIENCE_S)
                while not over.wait(0.1) and stream.is_active():
                    pass
                stream.cancel()

        threads = [threading.Thread(target=open_and_leave_unread) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            with stack.watched() as peak:
                good_caller.is_served()
                wait_until(lambda: [e for e in stack.server.events("call") if e.get("reason") == "CALLER_STALLED"])
                good_caller.is_served()
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert peak.grown_bytes < 1_500_000_000
