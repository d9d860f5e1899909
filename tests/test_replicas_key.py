"""What a load balancer before several servers goes by, and what a server says of pictures that it does not hold."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import Callable, Iterator
from hashlib import sha256

import grpc
import httpx
import numpy as np
import pytest
from client_fixtures import ScriptedServer, scripted_server
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import AsyncClient, Client, CutoutError, ImageId
from cutout_common import routing
from cutout_gateway import calls
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from test_keepalive import ACK, PING, RawClient
from waiting import PATIENCE_S, wait_until

BOX = (60, 20, 400, 290)
STORED = routing.new_id("img", "0123abcd", "f" * 32)


def key_of(content: bytes) -> str:
    """As docs/replicas.md tells callers in other languages."""
    return sha256(content).hexdigest()[:32]


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as script:
        yield script


def asked_with(scripted: ScriptedServer, ask: Callable[[], object]) -> str | None:
    """The key with which a call came; what the script answers does not matter here."""
    scripted.metadata = {}
    with contextlib.suppress(CutoutError):
        ask()
    return scripted.metadata.get(routing.KEY)


async def with_asyncio(address: str, image: object) -> None:
    async with AsyncClient(address) as client:
        await client.segment_box(image, BOX)


def test_the_client_tells_which_picture_a_call_is_about(scripted: ScriptedServer, photos: dict[str, Photo]):
    """The key is that of the file, the pixels, the address or the id, in calls, uploads, streams and sessions alike."""
    jpeg, pixels = photos["chelsea"].jpeg, photos["chelsea"].pixels
    with Client(scripted.address) as client:

        def session() -> None:
            with client.session(jpeg):
                pass

        for ask in (
            lambda: client.segment_box(jpeg, BOX),
            lambda: asyncio.run(with_asyncio(scripted.address, jpeg)),
            lambda: client.upload(jpeg),
            lambda: client.stream(jpeg, boxes=[BOX]).result(),
            session,
        ):
            assert asked_with(scripted, ask) == key_of(jpeg)
        assert asked_with(scripted, lambda: client.segment_box(pixels, BOX)) == key_of(pixels.tobytes())
        assert asked_with(scripted, lambda: client.segment_box("http://a.example/b.jpg", BOX)) == key_of(
            b"http://a.example/b.jpg"
        )
        assert asked_with(scripted, lambda: client.segment_box(ImageId(STORED), BOX)) == "f" * 32


def test_pictures_too_large_to_travel_along_keep_their_key(scripted: ScriptedServer, server: RunningServer):
    """Upload and request of one picture go the same way, for the id carries the key with which the upload came."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)
    with Client(server.address) as client:
        uploaded = client.upload(noise)
    assert routing.by_id(uploaded.image_id) == routing.Place(
        uploaded.sha256[:32], routing.by_id(uploaded.image_id).server
    )


def test_the_gateway_tells_which_picture_a_request_is_about(
    scripted: ScriptedServer, photos: dict[str, Photo], monkeypatch: pytest.MonkeyPatch
):
    """The key is the same in JSON, in forms, in streams and by id; requests about no picture have none."""
    monkeypatch.setattr(calls, "ANSWER_S", 0.05)  # A server by script never says that it lets a caller in.
    jpeg = photos["chelsea"].jpeg
    image = {"content": base64.b64encode(jpeg).decode()}
    box = [dict(zip(("xMin", "yMin", "xMax", "yMax"), BOX, strict=True))]
    with (
        GatewayThread(GatewaySettings(server_address=scripted.address)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        for ask in (
            lambda: rest.post("/v1/segment:box", json={"image": image, "boxes": box}),
            lambda: rest.post("/v1/segment:box", files={"image.content": jpeg}),
            lambda: rest.post("/v1/segment:stream", json={"box": {"image": image, "boxes": box}}),
        ):
            assert asked_with(scripted, ask) == key_of(jpeg)
        by_id = {"image": {"imageId": STORED}, "boxes": box}
        assert asked_with(scripted, lambda: rest.post("/v1/segment:box", json=by_id)) == "f" * 32
        assert asked_with(scripted, lambda: rest.post("/v1/segment:box", json={"boxes": box})) is None
        # What an upload is, is known at its end alone: it has a key of its own, which its id will carry.
        keys = {asked_with(scripted, lambda: rest.post("/v1/images", content=jpeg)) for _ in range(2)}
        assert len(keys) == 2
        assert key_of(jpeg) not in keys


def test_an_id_says_which_server_holds_its_picture(server: RunningServer, photos: dict[str, Photo]):
    """A server tells what it never stored from what it has forgotten, and neither name tells strangers where it is."""
    with run_server() as other, Client(other.address) as there, Client(server.address) as here:
        held = there.upload(photos["chelsea"].jpeg).image_id
        with pytest.raises(CutoutError) as elsewhere:
            here.segment_box(ImageId(held), BOX)
        there.delete(held)
        with pytest.raises(CutoutError) as forgotten:
            there.segment_box(ImageId(held), BOX)
    assert elsewhere.value.code is forgotten.value.code is grpc.StatusCode.NOT_FOUND
    assert (elsewhere.value.reason, forgotten.value.reason) == ("IMAGE_ELSEWHERE", "IMAGE_NOT_FOUND")
    name = routing.by_id(held).server
    assert elsewhere.value.metadata["server"] not in {"", name}
    assert "127" not in f"{bytes.fromhex(name)!r}"


def test_connections_are_renewed_and_what_goes_on_in_them_is_not_ended(photos: dict[str, Photo]):
    """A connection that has reached its age takes no new calls, and its session is answered in it still."""
    states: list[grpc.ChannelConnectivity] = []
    with run_server(max_connection_age_s=0.5) as server, server.channel() as channel:
        opening = pb2.SegmentSessionRequest(open=pb2.SessionOpen(image={"content": photos["chelsea"].jpeg}))
        prompt = pb2.SegmentSessionRequest(
            box={"boxes": [dict(zip(("x_min", "y_min", "x_max", "y_max"), BOX, strict=True))]}
        )

        def requests() -> Iterator[pb2.SegmentSessionRequest]:
            yield opening
            wait_until(lambda: grpc.ChannelConnectivity.IDLE in states[1:])
            yield prompt

        channel.subscribe(states.append, try_to_connect=True)
        wait_until(lambda: grpc.ChannelConnectivity.READY in states)
        answers = list(Stubs.over(channel).segmentation.SegmentSession(requests()))
    assert [each.WhichOneof("message") for each in answers] == ["opened", "segmentation"]


def test_silent_clients_are_asked_whether_they_are_there():
    """A connection that says nothing gets pings, so that one whose client is gone without a word does not stay."""
    with run_server(ping_interval_s=1.0) as server:
        host, port = server.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            client = RawClient(connection)
            client.open_session()
            assert any(kind == PING and not flags & ACK for kind, flags, _ in client.frames())
