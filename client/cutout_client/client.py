"""The client for synchronous programs."""

from collections.abc import Sequence
from typing import Self, Unpack

import PIL.Image

from cutout_client import administration, image_rpcs, tasks
from cutout_client.calls import Calls
from cutout_client.connection import DEFAULT_ADDRESS, Connection, ConnectionOptions
from cutout_client.generation import Generation, GenerationStream, generation
from cutout_client.images import ImageId, ImageLike, UploadedImage, image_id_of, read_picture
from cutout_client.keywords import lists_arguments
from cutout_client.prompts import (
    Boxes,
    EverythingOptions,
    GenerateOptions,
    Options,
    Point,
    Prompts,
    Regions,
    StreamOptions,
    TextOptions,
)
from cutout_client.requests import overlay_request
from cutout_client.results import Segmentation
from cutout_client.sessions import Session
from cutout_client.status import Model, ServerStatus
from cutout_client.streams import ObjectStream
from cutout_client.transport import LOAD_TIMEOUT_S
from cutout_client.videos import Videos


@lists_arguments
class Client(Videos):
    """A connection to a Cutout server. Threads may share it; close it, or use it in a `with` block.

    Every method takes `timeout_s`, the seconds that it may take with everything that it does (default: the client's),
    and `request_id`, under which the server logs the call (default: a new one, found in results and errors). Pictures
    are of any kind that `ImageLike` names; large ones are uploaded first. `options` are those of `Options`. All raise
    `CutoutError` or one of its kin when the service answers no result; see `cutout_client.errors`.

    Args:
        address: "host:port", several of them with commas between, "dns:///name:port" for all servers that a name has,
            or another of gRPC's forms, such as "unix:/run/cutout.sock". A web address is none. Of several servers each
            call goes to the one that knows its picture, and to another one when that fails.
        api_key: Sent with every call. Default: none.
        timeout_s: Seconds that a call may take; None leaves it to the server. Default: 60.
        retries: How often a call is tried again while the server is unavailable, or all of several are, with growing
            pauses, in [0, 4]. A full server is asked again after each pause that it asks for, until the deadline; with
            0 it is not, and sessions are not. With 0 no call is tried at a second server, either. Default: 3.
        tls: Talk TLS. Default: do not.
        root_certificates: PEM of the authorities to trust (bytes), or its path. Default: gRPC's own list.
        client_certificate: PEM of the chain to show to the server (bytes), or its path.
        client_key: PEM of its private key (bytes), or its path.
        channel_options: More gRPC channel arguments; they win over ours.
        max_in_flight: How many calls about pictures are under way at once; more wait for their turn. A stream counts
            until its first part is there; sessions, models, status and health do not. A call's own `timeout_s` holds
            for waiting, too; the client's counts from the call's turn. Default: 16.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, **how: Unpack[ConnectionOptions]) -> None:
        self._calls = Calls(Connection(address, **how))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls that are under way are cancelled."""
        self._calls.close()

    def segment_text(
        self,
        image: ImageLike,
        phrases: str | Sequence[str],
        *,
        detector: str = "",
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[TextOptions],
    ) -> Segmentation:
        """Finds what the phrases name and cuts each find out; nothing found is an empty result.

        Args:
            image: The picture.
            phrases: What to look for; several phrases in one string are separated by " . ".
            detector: Name of the model that finds. Default: the server's.
            segmenter: Name of the model that cuts out. Default: the server's.
            timeout_s: See the class.
            request_id: See the class.
            options: How to look, and what to make of the masks.
        """
        task = tasks.text_task(phrases, detector=detector, segmenter=segmenter, options=options)
        return self._segment(image, task, timeout_s, request_id)

    def segment_box(
        self,
        image: ImageLike,
        boxes: Boxes,
        *,
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Segmentation:
        """Cuts out the object in each box: (x_min, y_min, x_max, y_max) in pixels, one or several, or (N, 4)."""
        return self._segment(image, tasks.box_task(boxes, segmenter, options), timeout_s, request_id)

    def segment_points(
        self,
        image: ImageLike,
        prompts: Prompts,
        *,
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Segmentation:
        """Cuts out what the prompts describe.

        Args:
            image: The picture.
            prompts: The clicks on one object, (x, y) or (x, y, label) with label 0 for outside; or a `Prompt`, which
                may combine clicks, a box and earlier logits; or a `Prompt` for each of several objects.
            segmenter: Name of the model. Default: the server's.
            timeout_s: See the class.
            request_id: See the class.
            options: What to make of the masks.
        """
        return self._segment(image, tasks.points_task(prompts, segmenter, options), timeout_s, request_id)

    def segment_everything(
        self,
        image: ImageLike,
        *,
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[EverythingOptions],
    ) -> Segmentation:
        """Cuts out everything that looks like an object.

        Args:
            image: The picture.
            segmenter: Name of the model. Default: the server's.
            timeout_s: See the class.
            request_id: See the class.
            options: How to look, and what to make of the masks.
        """
        task = tasks.everything_task(segmenter=segmenter, options=options)
        return self._segment(image, task, timeout_s, request_id)

    def analyze(
        self,
        image: ImageLike,
        concepts: str | Sequence[str],
        *,
        regions: Regions | None = None,
        template: str = "",
        classifier: str = "",
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Segmentation:
        """Says which of the concepts the picture shows, cuts regions of it out, and says the same of each.

        The result's `concepts` are the whole picture's, each object's are those of its part of it; `best` is the best.

        Args:
            image: The picture.
            concepts: What it may show: words or sentences.
            regions: Where to look: boxes (x_min, y_min, x_max, y_max) and points (x, y) inside something, in pixels,
                one or several. Default: everything.
            template: Each concept is compared in place of "{}" in it. Default: "a photo of a {}".
            classifier: Name of the model that compares. Default: the server's.
            segmenter: Name of the model that cuts out. Default: the server's.
            timeout_s: See the class.
            request_id: See the class.
            options: What to make of the masks, which come as RLE and outlines unless `mask_formats` says otherwise.
        """
        task = tasks.analyze_task(
            concepts,
            regions=regions,
            template=template,
            classifier=classifier,
            segmenter=segmenter,
            options=options,
        )
        return self._segment(image, task, timeout_s, request_id)

    def stream(
        self,
        image: ImageLike,
        *,
        phrases: str | Sequence[str] | None = None,
        boxes: Boxes | None = None,
        prompts: Prompts | None = None,
        concepts: str | Sequence[str] | None = None,
        detector: str = "",
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[StreamOptions],
    ) -> ObjectStream:
        """Gives the objects one by one, each as soon as it is there: `for each in client.stream(...)`.

        Args:
            image: The picture.
            phrases: As for `segment_text`; at most one of this and the next three. Without any, everything is cut out.
            boxes: As for `segment_box`.
            prompts: As for `segment_points`.
            concepts: As for `analyze`.
            detector: As for `segment_text`.
            segmenter: Name of the model that cuts out. Default: the server's.
            timeout_s: See the class.
            request_id: See the class.
            options: What to make of the masks, and what else the method of that kind of prompt takes.
        """
        task = tasks.any_task(
            phrases=phrases,
            boxes=boxes,
            prompts=prompts,
            concepts=concepts,
            detector=detector,
            segmenter=segmenter,
            options=options,
        )
        return ObjectStream(*self._calls.stream(image_rpcs.stream(read_picture(image), task), timeout_s, request_id))

    def session(
        self, image: ImageLike, *, segmenter: str = "", timeout_s: float | None = None, request_id: str = ""
    ) -> Session:
        """One picture for many prompts, its embedding kept warm: `with client.session(picture) as session:`.

        `timeout_s` bounds the opening, and each prompt that brings no other.
        """
        call = self._calls.call(timeout_s, request_id)
        return Session(self._calls.link, self._calls.current(read_picture(image)), segmenter, call)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Makes a picture for each prompt, and cuts out of it at once what `options` name.

        Args:
            prompts: What each picture shows.
            timeout_s: See the class.
            request_id: See the class.
            options: Those of `GenerateOptions`.
        """
        return self._calls.ask(generation(prompts, options), timeout_s, request_id)

    def generate_stream(
        self,
        prompts: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[GenerateOptions],
    ) -> GenerationStream:
        """As `generate`, with progress: a `GenerationProgress` after each step, each `GeneratedImage` once it is done.

        Args:
            prompts: What each picture shows.
            timeout_s: See the class.
            request_id: See the class.
            options: Those of `GenerateOptions`.
        """
        return GenerationStream(*self._calls.stream(generation(prompts, options), timeout_s, request_id))

    def upload(self, image: ImageLike, *, timeout_s: float | None = None, request_id: str = "") -> UploadedImage:
        """Stores a picture for several requests; pixels are stored as a PNG.

        Raises:
            ValueError: The picture is an address or an id.
        """
        return self._calls.upload(read_picture(image), timeout_s, request_id)

    def download(
        self, image: UploadedImage | ImageId | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> bytes:
        """The stored file, byte for byte."""
        return self._calls.ask(image_rpcs.download(image), timeout_s, request_id)

    def delete(
        self, image: UploadedImage | ImageId | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> None:
        """Forgets a stored picture."""
        return self._calls.ask(administration.DELETE_IMAGE(image_id=image_id_of(image)), timeout_s, request_id)

    def overlay(
        self,
        image: ImageLike,
        *,
        phrases: str | Sequence[str] | None = None,
        boxes: Boxes | None = None,
        points: Sequence[Point] | None = None,
        detector: str = "",
        segmenter: str = "",
        mask_only: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> PIL.Image.Image:
        """The picture with its objects drawn on it by the server.

        Args:
            image: The picture; not an address.
            phrases: As for `segment_text`; at most one of this and the next two. Without any, everything is drawn.
            boxes: As for `segment_box`.
            points: (x, y) of clicks inside one object.
            detector: Name of the model that finds. Default: the server's.
            segmenter: Name of the model that cuts out. Default: the server's.
            mask_only: The masks alone, white on black.
            timeout_s: See the class.
            request_id: See the class.
        """
        picture = read_picture(image)
        request = overlay_request(
            picture,
            phrases=phrases,
            boxes=boxes,
            points=points,
            detector=detector,
            segmenter=segmenter,
            mask_only=mask_only,
        )
        return self._calls.ask(image_rpcs.overlay(picture, request), timeout_s, request_id)

    def models(self, *, timeout_s: float | None = None, request_id: str = "") -> tuple[Model, ...]:
        """The models that requests may name, sorted by name."""
        return self._calls.ask(administration.LIST_MODELS(), timeout_s, request_id)

    def model(self, name: str, *, timeout_s: float | None = None, request_id: str = "") -> Model:
        """One model."""
        return self._calls.ask(administration.GET_MODEL(name=name), timeout_s, request_id)

    def load_model(
        self, name: str, device: str = "", *, timeout_s: float | None = LOAD_TIMEOUT_S, request_id: str = ""
    ) -> Model:
        """Loads a model before the first request needs it, onto one device ("cpu", "cuda:0" ...) or onto all."""
        return self._calls.ask(administration.LOAD_MODEL(name=name, device=device), timeout_s, request_id)

    def unload_model(
        self, name: str, device: str = "", *, timeout_s: float | None = None, request_id: str = ""
    ) -> Model:
        """Gives a model's memory back, on one device or on all."""
        return self._calls.ask(administration.UNLOAD_MODEL(name=name, device=device), timeout_s, request_id)

    def status(self, *, timeout_s: float | None = None, request_id: str = "") -> ServerStatus:
        """Devices, queues, caches and stored pictures at this moment."""
        return self._calls.ask(administration.GET_STATUS(), timeout_s, request_id)

    def health(self, service: str = "", *, timeout_s: float | None = None, request_id: str = "") -> str:
        """What the standard health check says: "serving", "not_serving" or "unknown".

        Args:
            service: Such as "cutout.v1.SegmentationService"; empty for the server as a whole.
            timeout_s: See the class.
            request_id: See the class.

        Raises:
            NotFoundError: There is no such service.
        """
        return self._calls.ask(administration.CHECK_HEALTH(value=service), timeout_s, request_id)

    def _segment(self, image: ImageLike, task: tasks.Task, timeout_s: float | None, request_id: str) -> Segmentation:
        return self._calls.ask(image_rpcs.segment(read_picture(image), task), timeout_s, request_id)
