"""Where stored pictures are now whose server is gone."""

from collections import OrderedDict
from dataclasses import replace

from cutout_client.images import Picture, RemotePicture

_KNOWN = 1024


class Moved:
    """Remembers under which id a picture was stored anew."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, str] = OrderedDict()

    def note(self, old: str, new: str) -> None:
        """It is stored under another id from now on."""
        self._ids[old] = new
        if len(self._ids) > _KNOWN:
            self._ids.popitem(last=False)

    def current(self, picture: Picture) -> Picture:
        """The picture under the id that it has now."""
        while isinstance(picture, RemotePicture) and (new := self._ids.get(picture.image_id)):
            picture = replace(picture, image_id=new)
        return picture
