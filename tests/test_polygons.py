"""Polygons with fewer vertices: valid by shapely, as near as they say, the same at every entrance."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import shapely
from conftest import Photo, RunningServer
from cutout_client import AsyncClient, Client, InvalidRequestError, Segmentation
from cutout_client.cli import main
from cutout_server.imaging.masks import polygons
from cutout_server.imaging.simplify import MOST_RINGS, simplified
from cutout_server.types import MaskPatch, PolygonMask
from hypothesis import given, settings
from hypothesis import strategies as st
from masks_fixtures import MASKS, SHAPES
from shapely import MultiPolygon
from waiting import PATIENCE_S

PERSON = (20, 5, 440, 512)


def shape_of(parts: Sequence[Any]) -> MultiPolygon:
    shape = MultiPolygon([(part.exterior, part.holes) for part in parts])
    assert shape.is_valid, shapely.is_valid_reason(shape)
    return shape


def vertices(parts: Sequence[Any]) -> int:
    return sum(len(ring) for part in parts for ring in (part.exterior, *part.holes))


def reduced(mask: np.ndarray, tolerance: float, most: int) -> tuple[PolygonMask, PolygonMask]:
    exact = polygons(MaskPatch.of(mask))
    return exact, simplified(exact, tolerance, most)


@settings(max_examples=150, deadline=None)
@given(MASKS, st.sampled_from([0.0, 0.5, 1.0, 2.5, 9.0]), st.sampled_from([0, 4, 5, 17, 60]))
def test_any_mask_keeps_valid_polygons_within_its_bounds(mask, tolerance, most):
    """No more vertices than asked for, no part of the outline further away than the tolerance that they took."""
    exact, found = reduced(mask, tolerance, most)
    assert found.tolerance >= tolerance * mask.any()
    assert not most or vertices(found.polygons) <= most
    assert bool(found.polygons) == mask.any()
    rings, kept = (sum(1 + len(part.holes) for part in each.polygons) for each in (exact, found))
    assert found.left_out == rings - kept
    shape = shape_of(found.polygons)
    if mask.any() and not found.left_out:
        outline = shape_of(exact.polygons).boundary
        assert shapely.hausdorff_distance(shape.boundary, outline) <= found.tolerance + 1e-6


def test_nothing_is_left_out_that_need_not_be():
    """Exact polygons that are few enough come as they are; without a bound the tolerance is the one asked for."""
    exact, same = reduced(SHAPES["rings"], 0, vertices(polygons(MaskPatch.of(SHAPES["rings"])).polygons))
    assert same is exact
    exact, found = reduced(SHAPES["rings"], 1, 0)
    assert found.tolerance == 1
    assert vertices(found.polygons) < vertices(exact.polygons) / 2


def test_details_below_the_tolerance_go_the_largest_part_stays():
    """Of a block with a speck and a hole both go from the tolerance on whose square is more than their pixels."""
    mask = np.zeros((40, 60), np.bool_)
    mask[5:35, 5:35] = True
    mask[10:12, 10:13] = False
    mask[20:22, 50:53] = True
    assert [reduced(mask, tolerance, 0)[1].left_out for tolerance in (1, 2.4, 2.5)] == [0, 0, 2]
    _, found = reduced(mask, 256, 0)
    assert shape_of(found.polygons).area >= 30 * 30 / 2


def test_dust_is_not_all_kept():
    """Of very many parts the largest ones stay, so that the time has a bound."""
    mask = np.zeros((200, 200), np.bool_)
    mask[::2, ::2] = True
    mask[:60, :60] = True
    exact, found = reduced(mask, 0.5, 0)
    assert len(found.polygons) == MOST_RINGS
    assert found.left_out == len(exact.polygons) - MOST_RINGS
    assert max(part.area for part in shape_of(found.polygons).geoms) >= 3600


def test_a_person_takes_few_vertices_by_every_method(server: RunningServer, photos: dict[str, Photo]):
    """Unary, stream, session and async client: within a pixel a third is left, and a bound holds with a mask alike."""
    jpeg, options = photos["astronaut"].jpeg, {"mask_formats": ["rle", "polygons"]}

    def check(result: Segmentation) -> None:
        each = result[0]
        assert vertices(each.polygons) <= 64
        (sent,) = (mask.polygons for mask in each.encodings if mask.HasField("polygons"))
        assert sent.tolerance > 1
        filled = MultiPolygon([(part.exterior, part.holes) for part in each.polygons])
        assert filled.is_valid
        assert abs(filled.area / each.area - 1) < 0.05

    few: Any = options | {"polygon_tolerance": 1.0, "polygon_max_vertices": 64}
    with Client(server.address) as client:
        exact = client.segment_box(jpeg, PERSON, **options)[0].polygons
        near = client.segment_box(jpeg, PERSON, polygon_tolerance=1.0, **options)[0].polygons
        assert 64 < vertices(near) < vertices(exact) / 3
        check(client.segment_box(jpeg, PERSON, **few))
        with client.stream(jpeg, boxes=[PERSON], **few) as stream:
            check(stream.result())
        with client.session(jpeg) as session:
            check(session.box(PERSON, **few))


async def test_the_async_client_takes_them_too(server: RunningServer, photos: dict[str, Photo]):
    """By the same names."""
    async with AsyncClient(server.address) as client:
        result = await client.segment_box(
            photos["astronaut"].jpeg, PERSON, mask_formats=["polygons"], polygon_max_vertices=40
        )
    assert vertices(result[0].polygons) <= 40


def test_rest_takes_them_in_json_and_in_forms(gateway_url: str, photos: dict[str, Photo]):
    """By the contract's names; what was left out is said."""
    jpeg = photos["astronaut"].jpeg
    box = dict(zip(("x_min", "y_min", "x_max", "y_max"), PERSON, strict=True))
    fields = {"mask_formats": ["MASK_FORMAT_POLYGONS"], "polygon_max_vertices": 50}
    form = {"boxes": json.dumps(box), "options.polygon_max_vertices": "50"}
    form |= {"options.mask_formats": "MASK_FORMAT_POLYGONS"}
    with httpx.Client(base_url=gateway_url, timeout=PATIENCE_S) as rest:
        answer = rest.post("/v1/segment:box", data=form, files={"image.content": jpeg}).raise_for_status().json()
        stored = rest.post("/v1/images", content=jpeg).raise_for_status().json()["imageId"]
        asked = {"image": {"image_id": stored}, "boxes": [box], "options": fields}
        again = rest.post("/v1/segment:box", json=asked).raise_for_status().json()
    outlines = answer["objects"][0]["masks"][0]["polygons"]
    assert outlines == again["objects"][0]["masks"][0]["polygons"]
    rings = [ring for part in outlines["polygons"] for ring in (part["exterior"], *part.get("holes", []))]
    assert 4 <= sum(len(ring["coordinates"]) for ring in rings) / 2 <= 50
    assert outlines["tolerance"] > 0.5


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"polygon_tolerance": -1.0}, "options.polygon_tolerance"),
        ({"polygon_tolerance": float("nan")}, "options.polygon_tolerance"),
        ({"polygon_tolerance": 257.0}, "options.polygon_tolerance"),
        ({"polygon_max_vertices": 3}, "options.polygon_max_vertices"),
        ({"polygon_max_vertices": 30, "mask_formats": ["rle"]}, "options.polygon_max_vertices"),
        ({"polygon_tolerance": 1.0, "mask_formats": ["rle"]}, "options.polygon_tolerance"),
    ],
)
def test_what_cannot_be_is_refused(server: RunningServer, photos: dict[str, Photo], options: Any, field: str):
    """With the field's name; options about polygons that nobody asked for, too."""
    with Client(server.address) as client, pytest.raises(InvalidRequestError) as refusal:
        client.segment_box(photos["astronaut"].jpeg, PERSON, **{"mask_formats": ["polygons"]} | options)
    assert [violation.field for violation in refusal.value.violations] == [field]


def test_the_command_line_has_flags(server: RunningServer, photos: dict[str, Photo], tmp_path: Path, capsys):
    """They shape the polygons' file, and are refused where no polygons are written."""
    (tmp_path / "astronaut.jpg").write_bytes(photos["astronaut"].jpeg)
    command = ["segment", str(tmp_path / "astronaut.jpg"), "--box", ",".join(map(str, PERSON)), "--quiet"]
    command += ["--out", str(tmp_path), "--server", server.address, "--polygon-tolerance", "2"]
    assert main([*command, "--format", "polygons", "--polygon-max-vertices", "30"]) == 0
    (found,) = json.loads((tmp_path / "astronaut.polygons.json").read_text())
    assert 4 <= sum(len(ring) for part in found["polygons"] for ring in (part["exterior"], *part["holes"])) <= 30
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "--polygon-tolerance needs a --format with polygons" in capsys.readouterr().err
