"""What was said in a live session, and how to say it again to a server that knows nothing of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cutout.v1 import mask_pb2, tracking_service_pb2
from cutout_common import masks

from cutout_client.encodings import decode
from cutout_client.images import Picture, RemotePicture
from cutout_client.tracked import fill_frame

Request = tracking_service_pb2.TrackObjectsRequest
Prompts = list[tracking_service_pb2.TrackPrompt]


@dataclass(eq=False)
class Said:
    """A message to a session.

    Attributes:
        request: It, without the picture of a frame.
        picture: The picture; None of other messages.
        number: Of it in the session that it was sent to last; None until it is sent.
        found: By object: what was found in a frame that was answered, corrections included.
    """

    request: Request
    picture: Picture | None = None
    number: int | None = None
    found: dict[int, tracking_service_pb2.TrackedObject] = field(default_factory=dict)

    @property
    def index(self) -> int:
        """Of the frame that it is, or corrects."""
        said = self.request.correct if self.request.HasField("correct") else self.request.frame
        return said.frame_index

    @property
    def can_go_along(self) -> bool:
        """Whether it is a frame with a picture that was uploaded and is here, too."""
        return isinstance(self.picture, RemotePicture) and self.picture.local is not None

    def message(self, *, by_itself: bool = False) -> Request:
        """The whole of it.

        Args:
            by_itself: Whether a picture that was uploaded goes along, if it is here, instead of its id.

        Raises:
            OSError: The picture's file cannot be read.
        """
        if self.picture is None:
            return self.request
        message = Request()
        message.CopyFrom(self.request)
        local = self.picture.local if by_itself and isinstance(self.picture, RemotePicture) else None
        fill_frame(message.frame, local or self.picture)
        return message

    def saying(self, prompts: Iterable[tracking_service_pb2.TrackPrompt]) -> "Said":
        """The same with other prompts, and no phrases: what these found is known by its masks."""
        request = Request()
        request.CopyFrom(self.request)
        if request.HasField("frame"):
            request.frame.ClearField("phrases")
        said = request.correct if request.HasField("correct") else request.frame
        del said.prompts[:]
        said.prompts.extend(prompts)
        return Said(request, self.picture)


class Journal:
    """The frames by which a session can be opened anew, and what was said and found there.

    These are the last ones, which can be corrected still, and for each object that is in none of them the one in which
    it was seen last: no more than `held_frames` and one for each object.

    Args:
        held_frames: How many frames the server holds.
    """

    def __init__(self, held_frames: int) -> None:
        self._held_frames = held_frames
        self._said: list[Said] = []  # Frames that are held and their corrections, in the order of their answers.
        self._followed: set[int] = set()
        self._unseen: dict[int, tuple[Said, tracking_service_pb2.TrackPrompt]] = {}

    def picture(self, index: int) -> Picture:
        """That of a frame that is held."""
        (picture,) = [frame.picture for frame in self._frames() if frame.index == index]
        assert picture is not None  # noqa: S101 - for mypy: it is a frame
        return picture

    def frame(self, said: Said, answer: tracking_service_pb2.TrackedFrame) -> None:
        """Notes a frame that was answered."""
        said.found = {each.object_id: each for each in answer.objects}
        self._followed = set(said.found)
        self._said.append(said)
        for each in answer.objects:
            if each.present:
                self._unseen.pop(each.object_id, None)
        while len(frames := list(self._frames())) > self._held_frames:
            self._let_go(frames[0])

    def correction(self, said: Said, answer: tracking_service_pb2.TrackedFrame) -> None:
        """Notes a correction that was answered."""
        (frame,) = [frame for frame in self._frames() if frame.index == answer.frame_index]
        frame.found |= {each.object_id: each for each in answer.objects}
        self._followed |= {each.object_id for each in answer.objects}
        self._said.append(said)

    def removed(self, left: Iterable[int]) -> None:
        """Notes which objects are followed still; nothing is said of others again."""
        gone, self._followed = self._followed - set(left), set(left)
        for number in gone:
            self._unseen.pop(number, None)
        for said in self._said:
            said.found = {number: each for number, each in said.found.items() if number not in gone}
            said.request = said.saying(each for each in _prompts(said) if each.object_id not in gone).request

    def replay(self) -> list[Said]:
        """What to say to a server for it to know every object, in order; each is answered once."""
        begun: dict[Said, Prompts] = {}
        for number in sorted(self._followed):
            if beginning := self._beginning(number):
                begun.setdefault(beginning[0], []).append(beginning[1])
        held = list(self._frames())
        earlier = sorted((frame for frame in begun if frame not in held), key=lambda frame: frame.index)
        replayed = [frame.saying(begun[frame]) for frame in earlier]
        by_index = {frame.index: begun.get(frame, []) for frame in held}
        for said in self._said:
            anew = {prompt.object_id for prompt in by_index[said.index]}
            own = {prompt.object_id for prompt in _prompts(self._frame(said.index))}
            if said.picture is not None:
                rest = [prompt for prompt in _prompts(said) if prompt.object_id not in anew]
                replayed.append(said.saying([*rest, *by_index[said.index]]))
            # A mask by which an object begins has the corrections of it already.
            elif again := [prompt for prompt in _prompts(said) if prompt.object_id not in anew - own]:
                replayed.append(said.saying(again))
        return replayed

    def _frames(self) -> Iterator[Said]:
        return (said for said in self._said if said.picture is not None)

    def _frame(self, index: int) -> Said:
        return next(frame for frame in self._frames() if frame.index == index)

    def _let_go(self, frame: Said) -> None:
        rest = [other for other in self._frames() if other is not frame]
        for number in self._followed:
            if not any(_of(number, other) or _mask(number, other) for other in rest) and (
                prompt := self._prompt(frame, number)
            ):
                self._unseen[number] = frame, prompt
        self._said = [said for said in self._said if said.index != frame.index]

    def _beginning(self, number: int) -> tuple[Said, tracking_service_pb2.TrackPrompt] | None:
        """Where an object can begin, and by which prompt."""
        for frame in self._frames():
            if prompt := self._prompt(frame, number):
                return frame, prompt
        return self._unseen.get(number)

    def _prompt(self, frame: Said, number: int) -> tracking_service_pb2.TrackPrompt | None:
        """What the caller said of an object with a frame, else its mask there, else what a correction said of it."""
        if own := _of(number, frame):
            return own
        if mask := _mask(number, frame):
            return tracking_service_pb2.TrackPrompt(object_id=number, mask=_rle(mask))
        corrections = [said for said in self._said if said.picture is None and said.index == frame.index]
        return next(filter(None, (_of(number, said) for said in reversed(corrections))), None)


def _prompts(said: Said) -> Prompts:
    kind = said.request.correct if said.request.HasField("correct") else said.request.frame
    return list(kind.prompts)


def _of(number: int, said: Said) -> tracking_service_pb2.TrackPrompt | None:
    return next((prompt for prompt in _prompts(said) if prompt.object_id == number), None)


def _mask(number: int, frame: Said) -> mask_pb2.Mask | None:
    found = frame.found.get(number)
    return found.masks[0] if found is not None and found.present else None


def _rle(mask: mask_pb2.Mask) -> mask_pb2.RleMask:
    if mask.HasField("rle"):
        return mask.rle
    pixels = decode(mask)
    return mask_pb2.RleMask(size=pixels.shape, counts=masks.rle_encode(pixels).decode())
