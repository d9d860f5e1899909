"""A caller who asks one thing after the other, as if nothing were the matter."""

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
from conftest import encode
from cutout.v1 import mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout.v1 import segmentation_service_pb2_grpc as pb2_grpc
from cutout_common.status import unpack
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import PATIENCE_S, wait_until

from adversarial.stack import GOOD, Stack

# A caller who waits as long as it is told, again and again, is served before so many times.
TRIES = 30


@dataclass(frozen=True)
class Answer:
    """How something that was asked ended.

    Attributes:
        what: Which of the questions it was.
        seconds: Until it was answered, with the waiting that the server asked for.
        told_to_wait: How often it was turned away with a delay before.
        failure: Why it was not answered; empty when it was.
    """

    what: str
    seconds: float
    told_to_wait: int
    failure: str


class GoodCaller:
    """Asks over gRPC and REST, in rounds, until the context ends; what it is told to wait it waits.

    Leaving the context fails unless everything was answered.
    """

    def __init__(self, stack: Stack, key: str = GOOD) -> None:
        picture = np.full((48, 64, 3), 90, np.uint8)
        picture[10:40, 12:50] = 220
        jpeg = encode(picture)
        self._key = (("x-api-key", key),)
        self._request = pb2.SegmentByBoxRequest(
            image={"content": jpeg}, boxes=[mask_pb2.Box(x_min=10, y_min=8, x_max=52, y_max=42)]
        )
        self._json = {
            "image": {"content": base64.b64encode(jpeg).decode()},
            "boxes": [{"xMin": 10, "yMin": 8, "xMax": 52, "yMax": 42}],
        }
        self._stack = stack
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[Answer] = []
        self.rounds = 0

    def __enter__(self) -> "GoodCaller":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            assert not self.failures, self.failures

    @property
    def failures(self) -> list[Answer]:
        """What was not answered."""
        return [answer for answer in self.answers if answer.failure]

    def p99_s(self, what: str) -> float:
        """How long the slowest of a hundred took."""
        took = sorted(answer.seconds for answer in self.answers if answer.what == what)
        return took[int(0.99 * len(took))]

    def is_served(self, rounds: int = 5) -> None:
        """Returns once it has been answered everything so many times more."""
        wanted = self.rounds + rounds
        wait_until(lambda: self.rounds >= wanted or self.failures)
        assert not self.failures, self.failures

    def _run(self) -> None:
        with self._stack.channel() as channel, httpx.Client(base_url=self._stack.url, timeout=PATIENCE_S) as web:
            health, masks = health_pb2_grpc.HealthStub(channel), pb2_grpc.SegmentationServiceStub(channel)
            questions: dict[str, Callable[[], float | None]] = {
                "health": lambda: _called(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)),
                "mask": lambda: _called(
                    lambda: masks.SegmentByBox(self._request, metadata=self._key, timeout=PATIENCE_S)
                ),
                "readyz": lambda: _answered(web.get("/readyz")),
                "REST mask": lambda: _answered(web.post("/v1/segment:box", json=self._json, headers=dict(self._key))),
            }
            while not self._over.is_set() and not self.failures:
                for what, ask in questions.items():
                    self.answers.append(self._asked(what, ask))
                self.rounds += 1

    def _asked(self, what: str, ask: Callable[[], float | None]) -> Answer:
        began_s = time.monotonic()
        failure, waited = "", 0
        try:
            while (delay_s := ask()) is not None:
                waited += 1
                if waited > TRIES:
                    raise TimeoutError(f"turned away {TRIES} times")
                self._over.wait(delay_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
            failure = repr(error)
        return Answer(what, time.monotonic() - began_s, waited, failure)


def _called(call: Callable[[], object]) -> float | None:
    """None when the call went well, or the delay after which it is worth another one."""
    try:
        call()
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        delay_s = unpack(Status.FromString(details)).retry_after_s
        if delay_s is None:
            raise
        return delay_s
    return None


def _answered(response: httpx.Response) -> float | None:
    if response.is_success:
        return None
    if response.status_code in {429, 503} and "retry-after" in response.headers:
        return float(response.headers["retry-after"])
    raise AssertionError(f"{response.status_code} {response.text}")
