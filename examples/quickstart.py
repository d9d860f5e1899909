"""Finds faces in a photograph and cuts them out. Needs a server: `cutout serve`."""

import sys

from cutout_client import Client

with Client("localhost:50051") as client:
    result = client.segment_text(sys.argv[1], ["face"])
    for each in result:
        print(f"{each.label}: score {each.score:.2f}, {each.area} pixels, mask {each.mask.shape}")
    result.overlay().save("overlay.png")
    result.save("out", ["png", "cutouts", "coco"])
