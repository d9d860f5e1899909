"""`python hasty_gateway.py GRACE_S ROOM_S [FLAG ...]`: the gateway, but for how long it bears with its callers.

A body that trickles has GRACE_S more than its length takes, and a request waits ROOM_S for room in memory: tests that
show what happens then wait no longer for it.
"""

import sys

from cutout_gateway import body
from cutout_gateway.__main__ import main
from cutout_gateway.in_hand import Part

if __name__ == "__main__":
    _, grace_s, room_s, *flags = sys.argv
    body.GRACE_S = float(grace_s)
    Part.add.__defaults__ = (float(room_s),)
    sys.exit(main(flags))
