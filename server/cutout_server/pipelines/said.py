"""What is said of a stored video's frames, phrases that are looked for again among it."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

from cutout_server.types import Direction, VideoPrompt, VideoTrackRequest


class Said(Mapping[int, tuple[int, VideoPrompt]]):
    """By frame: which of the request's prompts says something of it, and what.

    What is looked for again is made when it is asked for: there may be as many frames of it as the video has.

    Args:
        request: The prompts, and how often phrases are looked for again.
        end: The frame behind the last one.
    """

    def __init__(self, request: VideoTrackRequest, end: int) -> None:
        self._prompts = {prompt.frame: (index, prompt) for index, prompt in enumerate(request.prompts)}
        is_back = request.direction is Direction.BACKWARD
        step = -request.phrases_every if is_back else request.phrases_every
        naming = sorted((prompt.frame for prompt in request.prompts if prompt.phrases), reverse=is_back)
        behind = itertools.pairwise([*naming, request.start_frame - 1 if is_back else end]) if step else ()
        self._again = {here: range(here + step, until, step) for here, until in behind}

    def __getitem__(self, frame: int) -> tuple[int, VideoPrompt]:
        named = next((here for here, frames in self._again.items() if frame in frames), None)
        if named is None:
            return self._prompts[frame]
        index, naming = self._prompts[named]
        which, prompt = self._prompts.get(frame, (index, VideoPrompt(frame, {}, None)))
        return which, replace(prompt, phrases=naming.phrases, phrases_again=True)

    def __iter__(self) -> Iterator[int]:
        return iter({*self._prompts, *itertools.chain.from_iterable(self._again.values())})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def last_beginning(self) -> int:
        """The last frame in which an object may begin, on the way forward."""
        firsts: dict[int, int] = {}
        for frame, (_, prompt) in sorted(self._prompts.items()):
            for number in prompt.prompts:
                firsts.setdefault(number, frame)
        naming = [frame for frame, (_, prompt) in self._prompts.items() if prompt.phrases]
        return max([*firsts.values(), *naming, *(frames[-1] for frames in self._again.values() if frames)])
