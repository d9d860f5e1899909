"""One object followed through a video. Needs a server, `cutout serve`, and OpenCV, which the extra `video` brings.

Usage: track.py VIDEO X0,Y0,X1,Y1
"""

import sys

import numpy as np
from cutout_client import Client
from cutout_client.video import VideoWriter

path, corners = sys.argv[1:]
box = [float(number) for number in corners.split(",")]

with Client("localhost:50051") as client, VideoWriter("tracked.mp4") as writer:
    for frame in client.track(path, boxes=box):
        (found,) = frame
        print(f"frame {frame.index}: {found.area} pixels" if found.present else f"frame {frame.index}: not there")
        writer.write(np.asarray(frame.overlay()))
