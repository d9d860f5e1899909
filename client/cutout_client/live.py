"""Frames in, the objects in them out, as they come."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc

from cutout_client.diagnosis import translated
from cutout_client.images import ImageLike
from cutout_client.limits import late, limited
from cutout_client.link import Link
from cutout_client.live_journal import Request, Said
from cutout_client.live_state import LiveState, Response
from cutout_client.retrying import interrupted, retried
from cutout_client.tracked import Frame, TrackedFrame, TrackPrompt, correction_request, removal_request
from cutout_client.transport import Call, Stubs

Steps = queue.SimpleQueue[Request | None]


class Live:
    """What both twins let their callers say and know.

    Attributes:
        tracker: The model that serves the session, once it is open.
        resumed: How often the session was opened anew because its server was lost or stopped.
    """

    def __init__(self, state: LiveState, *, resume: bool) -> None:
        self.tracker = ""
        self.resumed = 0
        self._state = state
        self._resumes = resume
        self._is_open = False
        self._over = False
        self._rpc: Any = None

    @property
    def names(self) -> Mapping[int, str]:
        """The phrase by which each object was found that words began, so far."""
        return self._state.names

    def correct(self, index: int, prompts: Mapping[int, TrackPrompt]) -> None:
        """Says more of objects in a frame that was answered; the answer is one of those to come.

        Args:
            index: Of the frame, one of the last `held_frames` that the server has looked at; up to three of them may
                be ahead of the answer.
            prompts: By object.

        Raises:
            ValueError: The frames have ended, and the caller has gone on behind the last answer.
        """
        self._say(Said(correction_request(index, prompts)))

    def remove(self, object_ids: Sequence[int]) -> None:
        """Follows objects no more, from the next frame on; raises as `correct` does."""
        self._say(Said(removal_request(object_ids)))

    def _say(self, said: Said) -> None:
        self._state.say(said)


class LiveStream(Live):
    """An iterator of frames with their objects, in the order in which the frames went.

    A frame or a correction that was refused raises where its answer would be; `next` goes on behind it. Frames are
    taken from the caller's iterator in a thread of their own, a few ahead of the answers. Close it, or use it in a
    `with` block, when not all is wanted.

    When its server is lost or stops, the session is opened anew at one that serves: the last `held_frames` frames go
    there with what was said in them, then those that are not answered yet. An object whose prompt is in none of these
    begins at its mask in the oldest of them that shows it, or, in none, in the frame in which it was seen last. So no
    more than `held_frames` and one frame for each absent object are kept, and nothing is answered twice.

    Attributes:
        tracker: The model that serves the session, once it is open.
        resumed: How often the session was opened anew because its server was lost or stopped.
    """

    def __init__(self, link: Link, frames: Iterable[ImageLike | Frame], state: LiveState, *, resume: bool) -> None:
        super().__init__(state, resume=resume)
        self._frames = frames
        self._changed = threading.Condition(threading.RLock())
        self._link = link
        self._steps: Steps | None = None  # Of the session that messages go to.

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrackedFrame:
        if not self._is_open:
            self._open(self._state.call(again=False))
            self._is_open = True
            threading.Thread(target=self._take, name="cutout-frames", daemon=True).start()
        while True:
            with self._changed:
                self._state.go_on()
                self._changed.notify_all()
            message = self._receive()
            with self._changed:
                frame = self._state.answered(message)
            if frame is not None:
                return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session; frames that are under way are not answered."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._rpc is not None:
            self._rpc.cancel()

    def _say(self, said: Said) -> None:
        with self._changed:
            super()._say(said)
            self._changed.notify_all()

    def _receive(self) -> Response:
        try:
            while True:
                try:
                    message: Response | None = next(self._rpc, None)
                except grpc.RpcError as failure:
                    self._resume(failure)
                    continue
                if message is None:
                    self._state.end()
                    raise StopIteration
                if not self._is_to_begin_anew(message):
                    return message
                self._rpc.cancel()
                self._open(self._state.call(again=True))
        except Exception:
            self.close()
            raise

    def _is_to_begin_anew(self, message: Response) -> bool:
        with self._changed:
            return self._state.is_to_begin_anew(message)

    def _resume(self, failure: grpc.RpcError) -> None:
        """Goes on at a server that can; raises what the failure means when none is to."""
        call = self._state.call(again=True)
        with translated(call):
            if self._over or not self._resumes:
                raise failure
            pause_s = interrupted(call, self._link, failure)
        time.sleep(pause_s)
        self._open(call)
        self.resumed += 1

    def _open(self, call: Call) -> None:
        replay = self._state.replay()

        def attempt(stubs: Stubs) -> None:
            # No frame is taken from the caller before a server has the session.
            steps: Steps = queue.SimpleQueue()
            self._rpc = rpc = stubs.tracking.TrackObjects(self._requests(steps), metadata=call.metadata)
            with limited(rpc.cancel, call.remaining_s()) as is_late:
                try:
                    self._begin(rpc, steps, replay, call)
                except grpc.RpcError:
                    if is_late():
                        raise late(call) from None
                    raise
                except BaseException:
                    rpc.cancel()
                    raise
                finally:
                    steps.put(None)

        retried(call, self._link, attempt)

    def _begin(self, rpc: Iterator[Response], steps: Steps, replay: Sequence[Said], call: Call) -> None:
        """Tells a server what there is to know of the session, one thing at a time, so that it drops none."""
        for said in (Said(self._state.opening), *replay):
            steps.put(self._state.message(said))
            answer = self._state.replayed(next(rpc, None), said, call)
            self.tracker = answer.opened.tracker or self.tracker
        with self._changed:
            self._state.begin(call, len(replay))
            self._steps = steps

    def _requests(self, steps: Steps) -> Iterator[Request]:
        while (request := steps.get()) is not None:
            yield request
        while (said := self._next(steps)) is not None:
            try:
                request = self._state.message(said)
            except Exception as failure:  # noqa: BLE001 - it is of the caller's file, and raised to the caller
                with self._changed:
                    self._state.fail(failure, said)
            else:
                yield request

    def _next(self, steps: Steps) -> Said | None:
        """What a session is told next; None when it is not to be told any more."""
        state = self._state
        with self._changed:
            self._changed.wait_for(
                lambda: self._over or self._steps is not steps or state.has_next or state.is_done,
            )
            return None if self._over or self._steps is not steps else state.next()

    def _take(self) -> None:
        """Takes the caller's frames, while there is room."""
        state = self._state
        try:
            for given in self._frames:
                with self._changed:
                    self._changed.wait_for(lambda: self._over or state.has_room)
                if self._over:
                    return
                said = state.read(given)
                with self._changed:
                    if state.all_taken:  # One before it could not be sent.
                        return
                    state.say(said)
                    self._changed.notify_all()
        except Exception as failure:  # noqa: BLE001 - it is the caller's own, and raised to the caller
            state.fail(failure)
        with self._changed:
            state.all_taken = True
            self._changed.notify_all()
