"""The demo's video: a camera goes over one of scikit-image's photographs, and a face is followed.

The photograph is real and the camera is not, so that it is known where the face must be in each frame.
"""

from pathlib import Path

import cv2
import numpy as np
import skimage.data
from cutout_client import Client, TrackPrompt
from cutout_client.video import Video, VideoWriter
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT, RATE, FRAMES = 320, 240, 12.0, 36
PHRASE = "face"
SHOWN = (0, 7, 14, 21, 28, 35)  # on the sheet
GOOD_IOU = 0.7
_HALF = 0.5  # of an object that is seen


def camera(number: int) -> NDArray[np.float64]:
    """Where the photograph's pixels are in a frame, as a 2 x 3 affine matrix: nearer, to the right, and back."""
    away = np.sin(np.pi * number / (FRAMES - 1)) ** 2
    x, y, zoom = 230 + 70 * away, 150 + 20 * away, 1.0 + 0.4 * away
    matrix = cv2.getRotationMatrix2D((x, y), 8 * away, zoom)
    matrix[:, 2] += (WIDTH / 2 - x, HEIGHT / 2 - y)
    return np.asarray(matrix)


def make(path: Path) -> None:
    """Writes the video."""
    photo = np.asarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    with VideoWriter(path, rate=RATE) as writer:
        for number in range(FRAMES):
            frame = cv2.warpAffine(photo, camera(number), (WIDTH, HEIGHT), flags=cv2.INTER_AREA)
            writer.write(np.asarray(frame, np.uint8))


def follow(client: Client, video: Path, folder: Path) -> tuple[int, float]:
    """Finds the face in the first frame and follows it; leaves the video with its mask, and a sheet of its frames.

    Returns:
        In how many frames it was found, and the mean IoU with where it is, over the frames that show half of it:
        0 where it was not found.
    """
    with Video(video, end=1) as opened:
        (first,) = opened
    (found, *_) = client.segment_text(first.image, [PHRASE])
    mask = np.asarray(found.mask)
    ious, present, sheet = [], 0, []
    with VideoWriter(folder / f"{video.stem}-tracked.mp4", rate=RATE) as writer:
        for frame in client.track(video, prompts={1: TrackPrompt(mask=mask)}):
            (face,) = frame
            drawn = frame.overlay()
            writer.write(np.asarray(drawn))
            if frame.index in SHOWN:
                sheet.append(drawn)
            present += face.present
            truth = _moved(mask, frame.index)
            if truth.sum() > _HALF * mask.sum():
                ious.append(_iou(face.mask, truth))
    _side_by_side(sheet).save(folder / f"{video.stem}-tracked.png")
    return present, float(np.mean(ious))


def _moved(mask: NDArray[np.bool_], number: int) -> NDArray[np.bool_]:
    """The first frame's mask where the camera has it in another one."""
    back = np.vstack([camera(0), (0, 0, 1)])
    there = np.vstack([camera(number), (0, 0, 1)]) @ np.linalg.inv(back)
    return np.asarray(cv2.warpAffine(mask.astype(np.float32), there[:2], (WIDTH, HEIGHT)) > _HALF)


def _iou(mask: NDArray[np.bool_] | None, truth: NDArray[np.bool_]) -> float:
    return 0.0 if mask is None else float((mask & truth).sum() / (mask | truth).sum())


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (WIDTH * 3, HEIGHT * 2))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (WIDTH * (place % 3), HEIGHT * (place // 3)))
    return sheet
