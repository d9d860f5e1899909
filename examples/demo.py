"""`make demo`: starts everything on free ports, segments real photographs in every way, and shows what came of it.

Each of four prompts is asked three times: through the Python client, through the REST gateway with curl, and streamed.
Then a face is followed through a short video (`demo_video.py`). Pictures, masks and the video are left in out/. Exits
with 1 when anything failed.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import demo_video
import skimage.data
from cutout_client import Client
from PIL import Image
from pycocotools import mask as coco
from rich import box
from rich.console import Console
from rich.table import Table

OUT = Path("out")
STAGES = ("queue", "decode", "detect", "encode", "prompt", "masks", "total")
SHOWN_METRICS = (
    "grpc_server_handled_total",
    "cutout_batch_size_count",
    "cutout_embeddings_cache_hits_total",
    "cutout_embeddings_cache_misses_total",
    "cutout_image_megapixels_count",
)
console = Console(highlight=False)


@dataclass(frozen=True)
class Asked:
    """One prompt on one photograph.

    Attributes:
        title: For the table.
        photo: Name of one of scikit-image's photographs.
        rpc: The REST verb.
        prompt: What the Python client's `stream` takes, and what curl sends as form fields.
        fields: The same as form fields of the contract's request.
    """

    title: str
    photo: str
    rpc: str
    prompt: dict[str, object]
    fields: dict[str, str]


ASKED = (
    Asked("person, face", "astronaut", "text", {"phrases": ["person . face"]}, {"phrases": "person . face"}),
    Asked(
        "box on a cat",
        "chelsea",
        "box",
        {"boxes": [(0, 0, 420, 300)]},
        {"boxes": '{"xMin": 0, "yMin": 0, "xMax": 420, "yMax": 300}'},
    ),
    Asked(
        "two clicks",
        "rocket",
        "points",
        {"prompts": [(322, 200), (322, 330)]},
        {"prompts": '{"points": [{"x": 322, "y": 200}, {"x": 322, "y": 330}]}'},
    ),
    Asked("everything", "coffee", "everything", {}, {}),
)


@dataclass(frozen=True)
class Row:
    """What one asking came to."""

    labels: list[str]
    scores: list[float]
    areas: list[int]
    stages_ms: dict[str, float]
    wall_ms: float


def main() -> int:
    """Runs the demo; 0 when everything worked."""
    photos = save_photos()
    title = "What was asked, and what came back (milliseconds inside the server by stage)"
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in ("asked", "way", "found", "score"):
        table.add_column(column, justify="right" if column in {"found", "score"} else "left", no_wrap=True)
    for stage in STAGES:
        table.add_column(stage, justify="right", style="bold" if stage == "total" else "dim", no_wrap=True)
    failures = []
    with running_server() as (address, gateway, metrics), Client(address) as client:
        before = read_metrics(metrics)
        for asked in ASKED:
            photo = photos[asked.photo]
            ways: dict[str, Callable[[], Row]] = {
                "client": lambda asked=asked, photo=photo: by_client(client, asked, photo),
                "curl": lambda asked=asked, photo=photo: by_curl(gateway, asked, photo),
                "stream": lambda asked=asked, photo=photo: by_stream(client, asked, photo),
            }
            rows = {}
            for way, ask in ways.items():
                rows[way] = ask()
                add_row(table, asked, way, rows[way])
            table.add_section()
            if not rows["client"].areas:
                failures.append(f"{asked.title}: nothing was found")
            if len({tuple(row.areas) for row in rows.values()}) > 1:
                failures.append(f"{asked.title}: the three ways gave different objects")
        draw_by_rest(gateway, photos["chelsea"])
        followed, iou = follow(client)
        if iou < demo_video.GOOD_IOU:
            failures.append(f"the video: an IoU of {iou:.2f} with where the {demo_video.PHRASE} is")
        console.print(table)
        console.print(followed, "\n")
        show_metrics(before, read_metrics(metrics))
    show_files()
    for failure in failures:
        console.print(f"[red]FAILED[/red] {failure}")
    return 1 if failures else 0


def save_photos() -> dict[str, Path]:
    """Writes the photographs as JPEG files."""
    shutil.rmtree(OUT, ignore_errors=True)
    folder = OUT / "photos"
    folder.mkdir(parents=True)
    paths = {}
    for name in sorted({asked.photo for asked in ASKED}):
        paths[name] = folder / f"{name}.jpg"
        Image.fromarray(getattr(skimage.data, name)()).save(paths[name], quality=92)
    return paths


@contextmanager
def running_server() -> Iterator[tuple[str, str, str]]:
    """Starts `cutout serve`; yields the addresses of server, gateway and metrics, and stops it in the end."""
    port, gateway_port, metrics_port = (free_port() for _ in range(3))
    address = f"127.0.0.1:{port}"
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        flags = [f"--port={port}", f"--metrics-port={metrics_port}", f"--gateway-port={gateway_port}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "cutout_client", "serve", "--log-format=console", *flags], stderr=log
        )
        try:
            gateway = f"http://127.0.0.1:{gateway_port}"
            wait_until_ready(process, f"{gateway}/readyz")
            console.print(f"Serving after {time.monotonic() - started:.1f} s: gRPC on {address}, REST on {gateway}\n")
            yield address, gateway, f"http://127.0.0.1:{metrics_port}/metrics"
            process.terminate()
            if process.wait(60) != 0:
                raise RuntimeError(f"the server ended with exit status {process.returncode}")
        except BaseException:
            log.seek(0)
            console.print(log.read(), markup=False)
            raise
        finally:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    """Returns once the gateway says that the server's health is SERVING."""
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server was not ready within a minute")


def by_client(client: Client, asked: Asked, photo: Path) -> Row:
    """One unary call; its pictures are saved."""
    method = {
        "text": client.segment_text,
        "box": client.segment_box,
        "points": client.segment_points,
        "everything": client.segment_everything,
    }[asked.rpc]
    started = time.monotonic()
    result = method(photo, *asked.prompt.values())
    wall_ms = (time.monotonic() - started) * 1000
    result.overlay().save(OUT / f"{asked.rpc}-{asked.photo}.png")
    result.save(OUT / "masks" / asked.rpc, ["png", "rle", "coco"])
    stages = {stage: getattr(result.timings, f"{stage}_ms") for stage in STAGES}
    areas = [each.area for each in result]
    return Row([each.label for each in result], [each.score for each in result], areas, stages, wall_ms)


def by_stream(client: Client, asked: Asked, photo: Path) -> Row:
    """The same, object by object."""
    started = time.monotonic()
    stream = client.stream(photo, **asked.prompt)  # type: ignore[arg-type]
    objects = list(stream)
    wall_ms = (time.monotonic() - started) * 1000
    stages = {stage: getattr(stream.result().timings, f"{stage}_ms") for stage in STAGES}
    areas = [each.area for each in objects]
    return Row([each.label for each in objects], [each.score for each in objects], areas, stages, wall_ms)


def by_curl(gateway: str, asked: Asked, photo: Path) -> Row:
    """The same over REST; pycocotools reads the masks as they come."""
    form = [f"image.content=@{photo}", *(f"{name}={value}" for name, value in asked.fields.items())]
    started = time.monotonic()
    answer = json.loads(curl(f"{gateway}/v1/segment:{asked.rpc}", *(part for f in form for part in ("-F", f))))
    wall_ms = (time.monotonic() - started) * 1000
    objects = answer["objects"]
    areas = [int(coco.decode(each["masks"][0]["rle"]).sum()) for each in objects]
    scores = [each.get("detectionScore", each["predictedIou"]) for each in objects]
    stages = {stage: answer["timings"][f"{stage}Ms"] for stage in STAGES}
    return Row([each["label"] for each in objects], scores, areas, stages, wall_ms)


def draw_by_rest(gateway: str, photo: Path) -> None:
    """A picture in, a picture out."""
    overlay = curl(f"{gateway}/v1/overlay?phrases=cat+face", "--data-binary", f"@{photo}")
    (OUT / f"rest-overlay-{photo.stem}.png").write_bytes(overlay)


def follow(client: Client) -> tuple[str, float]:
    """Follows what one word finds through a video; what to say of it, and the mean IoU with where it is."""
    video = OUT / "photos" / "astronaut.mp4"
    demo_video.make(video)
    started = time.monotonic()
    present, iou = demo_video.follow(client, video, OUT)
    frame_ms = (time.monotonic() - started) * 1000 / demo_video.FRAMES
    said = f'"{demo_video.PHRASE}" through {video.name}: in {present} of {demo_video.FRAMES} frames'
    return f"{said}, IoU {iou:.2f}, {frame_ms:.0f} ms each", iou


def curl(url: str, *arguments: str) -> bytes:
    """Runs curl, which fails loudly."""
    if shutil.which("curl") is None:
        raise RuntimeError("the demo shows REST with curl, and curl is not installed")
    return subprocess.run(["curl", "-sS", "--fail-with-body", *arguments, url], check=True, capture_output=True).stdout


def add_row(table: Table, asked: Asked, way: str, row: Row) -> None:
    """One line of the table."""
    first_cell = {"client": asked.title, "curl": f"[dim]{asked.photo}.jpg[/dim]", "stream": ""}[way]
    score = f"{max(row.scores):.2f}" if row.scores else ""
    times = (f"{row.stages_ms[stage]:.0f}" for stage in STAGES)
    table.add_row(first_cell, way, str(len(row.areas)), score, *times)


def read_metrics(url: str) -> dict[str, float]:
    """Value by name and labels."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def show_metrics(before: dict[str, float], after: dict[str, float]) -> None:
    """What moved."""
    table = Table(title="Metrics that moved", title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("metric", "labels", "by"):
        table.add_column(column, justify="right" if column == "by" else "left")
    for name, value in after.items():
        moved = value - before.get(name, 0)
        if name.startswith(SHOWN_METRICS) and moved:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', name))
            shown = (text for label, text in labels.items() if label not in {"grpc_service", "grpc_type"})
            table.add_row(name.split("{")[0], " ".join(shown), f"+{moved:g}")
    console.print(table)


def show_files() -> None:
    """What to look at."""
    pictures = ", ".join(str(path) for path in sorted([*OUT.glob("*.png"), *OUT.glob("*.mp4")]))
    masks = sum(1 for path in (OUT / "masks").rglob("*.png"))
    console.print(f"\nLook at {pictures}.\n{masks} masks are in {OUT / 'masks'}, also as COCO JSON.")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
