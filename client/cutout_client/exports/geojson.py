"""GeoJSON, in pixels: x to the right, y down."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from cutout_common.disks import write

from cutout_client.answer import Answer
from cutout_client.objects import SegmentedObject


def to_geojson(result: Answer) -> dict[str, Any]:
    """A FeatureCollection; see `Segmentation.to_geojson`."""
    return {"type": "FeatureCollection", "features": [_feature(each) for each in result]}


def _feature(each: SegmentedObject) -> dict[str, Any]:
    parts = [
        [[*ring.tolist(), ring[0].tolist()] for ring in (part.exterior, *part.holes)]  # GeoJSON closes its rings
        for part in each.polygons
    ]
    properties = {"label": each.name, "score": each.score, "area": each.area, "prompt_index": each.prompt_index}
    return {
        "type": "Feature",
        "bbox": list(each.box),
        "geometry": {"type": "MultiPolygon", "coordinates": parts},
        "properties": properties,
    }


class GeoJson:
    """A file for each picture."""

    def __init__(self, folder: Path, *, polygons: bool = True) -> None:
        del polygons  # there is no other way
        self._folder = folder
        self._files: list[Path] = []

    def add(self, file_name: str, result: Answer) -> None:
        """See `Dataset`."""
        path = self._folder / PurePosixPath(file_name).with_suffix(".geojson")
        content = json.dumps(to_geojson(result)).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
        self._files.append(path)

    def save(self) -> list[Path]:
        """See `Dataset`."""
        return self._files
