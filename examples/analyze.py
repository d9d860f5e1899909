"""Says what a photograph shows, and what its parts show. Needs a server with a classifier among its models.

Usage: analyze.py PICTURE CONCEPT CONCEPT ...
"""

import sys

from cutout_client import Client

picture, *concepts = sys.argv[1:]

with Client("localhost:50051") as client:
    result = client.analyze(picture, concepts, max_objects=10)
    print(f"the picture: {result.concepts.best.concept} ({result.concepts.best.score:.0%})")
    for each in result:
        print(f"{each.concepts.best.concept} ({each.concepts.best.score:.0%}): {each.area} pixels in {each.box}")
    result.overlay().save("overlay.png")
