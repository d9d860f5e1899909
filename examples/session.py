"""Clicks on one photograph, one after the other, as an annotation tool does. Needs a server: `cutout serve`.

Usage: session.py PICTURE X,Y[,LABEL] ...
"""

import sys

from cutout_client import Client, Prompt

picture, *words = sys.argv[1:]
clicks = [tuple(float(number) for number in word.split(",")) for word in words]

with Client("localhost:50051") as client, client.session(picture) as session:
    print(f"{session.image.width} x {session.image.height} pixels, segmenter {session.segmenter}")
    for count in range(1, len(clicks) + 1):
        result = session.points(Prompt(clicks[:count]))
        area = result[0].area if result else 0
        print(f"{count} clicks: {area} pixels, {result.timings.prompt_ms:.0f} ms in the decoder")
    result.overlay().save("session.png")
