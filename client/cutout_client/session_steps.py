"""What both twins of a session do alike: what is sent, how answers are read, and what is kept between prompts."""

from collections.abc import Callable, Iterator

from cutout.v1 import segmentation_service_pb2
from cutout_common import routing

from cutout_client import errors, requests
from cutout_client.answer import ImageInfo
from cutout_client.images import Picture, RemotePicture
from cutout_client.responses import read_image_info, read_segmentation
from cutout_client.results import Segmentation
from cutout_client.transport import Call

Request = segmentation_service_pb2.SegmentSessionRequest
Response = segmentation_service_pb2.SegmentSessionResponse

CLOSE_S = 5.0  # A server that does not end a session that we ended is not waited for longer.


class SessionSteps:
    """A picture, and the call under which prompts about it go.

    Attributes:
        image: The picture as the server saw it.
        segmenter: The model that serves the session.
    """

    image: ImageInfo
    segmenter: str

    def __init__(self, picture: Picture, segmenter: str, call: Call) -> None:
        self._picture = picture
        self._segmenter = segmenter
        self._call = call

    def _began(self, opened: segmentation_service_pb2.SessionOpened) -> None:
        """Notes what the server told."""
        self.image = read_image_info(opened.image)
        self.segmenter = opened.segmenter

    def _prompt_call(self, timeout_s: float | None) -> Call:
        """For a prompt, or for opening."""
        return self._call.next(self._call.limit_s if timeout_s is None else timeout_s)

    def _opening(self, picture: Picture, call: Call) -> Callable[[], Iterator[Request]]:
        """The first messages about a picture, and the place where they should go, which the call learns."""
        call.place, opening = requests.session_opening(picture, self._segmenter)
        return opening

    def _local(self, gone: errors.NotFoundError) -> Picture:
        """What to open a session with in place of a stored picture whose server is gone.

        Raises:
            NotFoundError: It is not here, or something else was not found.
        """
        picture = self._picture
        if gone.reason != routing.ELSEWHERE or not isinstance(picture, RemotePicture) or picture.local is None:
            raise gone
        return picture.local

    def _read(self, message: Response, call: Call) -> Segmentation:
        """The answer to one prompt.

        Raises:
            CutoutError: The prompt was refused.
        """
        if message.WhichOneof("message") == "error":
            raise errors.from_status(message.error, call.request_id)
        return read_segmentation(message.segmentation, self._picture, call.request_id)
