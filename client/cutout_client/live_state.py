"""A live session as its caller knows it: what was said, what is answered, and what to say when it begins anew.

Knows nothing of how messages travel, nor of threads and loops: `LiveStream` and `AsyncLiveStream` do.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import grpc
from cutout.v1 import tracking_service_pb2
from cutout_common import routing
from cutout_common.failover import Losses
from google.rpc.status_pb2 import Status

from cutout_client import errors
from cutout_client.images import ImageLike, read_picture
from cutout_client.limits import ended
from cutout_client.live_journal import Journal, Request, Said
from cutout_client.messages import words
from cutout_client.tracked import Frame, TrackedFrame, TrackPrompt, frame_request, read_frame
from cutout_client.transport import Call

Response = tracking_service_pb2.TrackObjectsResponse

_AHEAD = 4  # Frames that are sent before the first of them is answered.
_AHEAD_OF_NEWEST = 64  # Likewise where the server drops what comes too fast.
_HELD_FRAMES = 4  # The server's default.
_LIMIT_S = 60.0  # For opening, where the client has no timeout: the session has no deadline that would end the waiting.


class LiveState:
    """The messages of a session that are not answered yet, in their order, and what is kept of those that are.

    Args:
        opening: The first message.
        first: Prompts in the first frame.
        phrases: What to look for there.
        call: To which the session belongs.

    Attributes:
        failure: What the caller's own frames have raised.
        all_taken: Whether there are no more of them.
        names: The phrase by which each object was found that words began.
    """

    def __init__(
        self, opening: Request, first: Mapping[int, TrackPrompt], phrases: str | Sequence[str], call: Call
    ) -> None:
        self.opening = opening
        self.names: dict[int, str] = {}
        self.failure: Exception | None = None
        self.all_taken = False
        self._first, self._first_phrases = dict(first), words("phrases", phrases)
        self._phrases: list[str] = []  # Those that were looked for last.
        self._are_due = False  # Whether another server is to look for them: it does not know when it would have been.
        newest = opening.open.drop_policy == tracking_service_pb2.TrackingOpen.DROP_POLICY_NEWEST
        self._ahead = _AHEAD_OF_NEWEST if newest else _AHEAD
        self._call = call
        self._is_elsewhere = False  # Whether the session may be at another server than pictures that were uploaded.
        self._losses = Losses()
        self._journal = Journal(opening.open.held_frames or _HELD_FRAMES)
        self._waiting: list[Said] = []
        self._left_behind = 0  # Of what was answered; the caller may have more to say of it still.
        self._number = 0
        self._index = 0

    def call(self, *, again: bool) -> Call:
        """For opening the session, or for opening it again, which waits for a server as long as it may.

        Servers that were lost with it count until something is answered.
        """
        self._is_elsewhere |= again
        call = self._call.next(_LIMIT_S if self._call.limit_s is None else self._call.limit_s)
        call.losses, call.waits_for_servers = self._losses, again
        return call

    def begin(self, call: Call, replayed: int) -> None:
        """A server has the session, and was told so many messages of it; what is not answered goes there, too."""
        self._call.member = call.member
        self._number = replayed
        for said in self._waiting:
            said.number = None
        self._are_due = bool(self._phrases and self.opening.open.phrases_every)

    def replay(self) -> list[Said]:
        """What to tell a server of the session before; nothing at its first one."""
        if self.names:  # No id is given again.
            self.opening.open.first_found_id = max(self.names) + 1
        return self._journal.replay()

    def read(self, given: ImageLike | Frame) -> Said:
        """A frame of the caller's, as a message.

        Raises:
            TypeError: It is no frame.
            ValueError: Likewise, or its prompts cannot be sent.
        """
        frame = given if isinstance(given, Frame) else Frame(given)
        if self._first or self._first_phrases:
            phrases = [*self._first_phrases, *words("phrases", frame.phrases)]
            frame = replace(frame, prompts={**self._first, **frame.prompts}, phrases=phrases)
            self._first, self._first_phrases = {}, []
        index = self._index if frame.index is None else frame.index
        self._index = index + 1
        return Said(frame_request(frame, index), read_picture(frame.image))

    def message(self, said: Said) -> Request:
        """What to send of something said; may read the picture's file, and raises as `Said.message` does."""
        return said.message(by_itself=self._is_elsewhere)

    def say(self, said: Said) -> None:
        """Puts a message behind the others.

        Raises:
            ValueError: The frames have ended, and the caller has gone on behind the last answer.
        """
        if self.is_done:
            raise ValueError("the frames have ended, and all of them were answered")
        self._waiting.append(said)

    @property
    def has_room(self) -> bool:
        """Whether a frame may be taken from the caller."""
        return len(self._waiting) + self._left_behind < self._ahead

    @property
    def is_done(self) -> bool:
        """Whether nothing will be said any more."""
        return self.all_taken and not self._waiting and not self._left_behind

    @property
    def has_next(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._waiting) and self._waiting[-1].number is None

    def next(self) -> Said | None:
        """What to send now."""
        said = next((said for said in self._waiting if said.number is None), None)
        if said is not None:
            said.number = self._number
            self._number += 1
            if self._are_due and said.picture is not None:
                if not said.request.frame.phrases:
                    said.request.frame.phrases.extend(self._phrases)
                    said.request.frame.phrases_optional = True
                self._are_due = False
        return said

    def fail(self, failure: Exception, said: Said | None = None) -> None:
        """The caller's frames have raised, or one of them cannot be sent: it and what is behind it is not."""
        self.failure, self.all_taken = failure, True
        if said is not None and said.number is not None:
            self._number = said.number
            del self._waiting[self._waiting.index(said) :]

    def go_on(self) -> None:
        """The caller asks for what comes behind the answer that it has: what it wanted to say of that it has said."""
        self._left_behind = 0

    def is_to_begin_anew(self, message: Response) -> bool:
        """Whether a frame was refused whose picture another server stores, though it is here: then it goes along.

        So do all pictures from then on. Behind the frame others may have been answered, and a number that was refused
        is used up: so the session begins anew, as at another server.
        """
        if self._is_elsewhere or message.WhichOneof("message") != "error":
            return False
        self._is_elsewhere = errors.from_status(message.error, "").reason == routing.ELSEWHERE
        return self._is_elsewhere and self._said(message).can_go_along

    def answered(self, message: Response) -> TrackedFrame | None:
        """The answer, if it is a frame's.

        Raises:
            CutoutError: It is a refusal.
        """
        said = self._said(message)
        self._waiting.remove(said)
        self._left_behind, self._losses = 1, Losses()
        self._forget({*message.dropped_frames, *message.frame.dropped_frames})
        kind = message.WhichOneof("message")
        if kind == "error":
            raise errors.from_status(message.error, self._call.request_id)
        if kind == "removed":
            self._journal.removed(message.removed.object_ids)
            return None
        answer = message.frame
        if answer.HasField("found"):
            self.names |= {each.object_id: each.label for each in answer.found.objects}
            self._phrases = list(said.request.frame.phrases) or self._phrases
        (self._journal.correction if answer.corrected else self._journal.frame)(said, answer)
        return read_frame(answer, self._journal.picture(answer.frame_index), self._call.request_id)

    def _forget(self, dropped: Set[int]) -> None:
        """Waits no more for frames that were dropped; they may be named twice."""
        waiting = [each for each in self._waiting if each.picture is None or each.index not in dropped]
        self._left_behind += len(self._waiting) - len(waiting)
        self._waiting = waiting

    def _said(self, message: Response) -> Said:
        """What is answered."""
        (said,) = [said for said in self._waiting if said.number == message.message_number]
        return said

    def replayed(self, message: Response | None, said: Said, call: Call) -> Response:
        """Looks over what a server answers to something said while the session begins.

        Raises:
            CutoutError: It is a refusal, or there is none.
        """
        if message is None:
            raise ended(call.request_id)
        if message.WhichOneof("message") == "error":
            raise errors.from_status(_refusal(message.error, said), call.request_id)
        return message

    def end(self) -> None:
        """The server has ended the session.

        Raises:
            CutoutError: Though not everything was answered.
            Exception: The caller's frames had raised it.
        """
        if self.failure is not None:
            raise self.failure
        if self._waiting:
            raise ended(self._call.request_id)


def _refusal(error: Status, said: Said) -> Status:
    """With what to do about it where a frame was given as the id of what is not at the session's new server."""
    if said.picture is not None and error.code == grpc.StatusCode.NOT_FOUND.value[0]:
        error.message = (
            f"the session cannot go on at another server, which has to look at frame {said.index} again: "
            f"{error.message}, or give frames as pictures, or as what `upload` answered; they are sent again"
        )
    return error
