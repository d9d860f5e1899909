"""A caller who opens all the sessions that it can get, and keeps them by messages that cost nothing."""

import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
from conftest import Stubs, encode, run_server
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import Client
from cutout_common.status import unpack
from grpc_status import rpc_status
from waiting import wait_until

from adversarial.stack import BAD, GOOD

KEYS = [{"caller": "good", "key": GOOD}, {"caller": "bad", "key": BAD, "quotas": {"sessions": 4}}]
PIXELS = np.full((48, 64, 3), 90, np.uint8)
EMPTY = [
    pb2.SegmentSessionRequest(),
    pb2.SegmentSessionRequest(box={}),
    pb2.SegmentSessionRequest(image_chunk={}),
    pb2.SegmentSessionRequest(open={}),
]


def test_others_open_theirs_and_idle_ones_end():
    """What is beyond the quota is refused; the rest ends in time, however many empty messages come; others' stay."""
    over = threading.Event()
    ended: Counter[str] = Counter()

    def messages(number: int) -> Iterator[pb2.SegmentSessionRequest]:
        yield pb2.SegmentSessionRequest(open={"image": {"content": encode(PIXELS)}})
        while not over.wait(0.05):
            yield EMPTY[number % len(EMPTY)]

    def hold(stubs: Stubs, number: int) -> None:
        session = stubs.segmentation.SegmentSession(messages(number), metadata=[("x-api-key", BAD)])
        try:
            for _ in session:
                pass
        except grpc.RpcError:
            ended[unpack(rpc_status.from_call(session)).reason] += 1

    with (
        run_server(api_keys=KEYS, max_sessions=8, session_idle_s=5.0) as server,
        server.channel() as channel,
        Client(server.address, api_key=GOOD) as client,
        client.session(PIXELS) as before,
    ):
        threads = [threading.Thread(target=hold, args=(Stubs.over(channel), number)) for number in range(12)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: ended["QUOTA_EXCEEDED"])
            with client.session(PIXELS) as meanwhile:
                assert len(meanwhile.box((8, 8, 40, 40))) == 1
                while ended.total() < 12:
                    assert len(before.box((8, 8, 40, 40))) == 1  # Which is what a session is kept for.
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert set(ended) == {"QUOTA_EXCEEDED", "SESSION_IDLE"}
    assert ended["SESSION_IDLE"] >= 4
