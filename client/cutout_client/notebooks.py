"""What notebooks show of results and of their objects: the picture with the masks, and a small table."""

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any, Protocol

import PIL.Image
from cutout_common.overlay import color_of

LONGEST_SIDE = 800  # In pixels; notebooks keep all that they show.
MOST_ROWS = 20


class Row(Protocol):
    """An object, as a row of the table."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def score(self) -> float: ...  # noqa: D102
    @property
    def area(self) -> int: ...  # noqa: D102
    @property
    def box(self) -> Iterable[float]: ...  # noqa: D102


class Shown(ABC):
    """Gives a class the methods that IPython asks for, made of what `_shown` gives."""

    @abstractmethod
    def _shown(self) -> tuple[PIL.Image.Image, Sequence[Row], str]:
        """The picture, the rows of the table, and what is said below."""

    def _repr_png_(self) -> bytes:
        image, _, _ = self._shown()
        return _file(image, "PNG")

    def _repr_html_(self) -> str:
        image, objects, remark = self._shown()
        jpeg = base64.b64encode(_file(image, "JPEG")).decode()
        rows = [_cells(index, row) for index, row in enumerate(objects[:MOST_ROWS])]
        if more := len(objects) - len(rows):
            rows.append(f'<tr><td colspan="6">and {more} more</td></tr>')
        head = "".join(f"<th>{name}</th>" for name in ("", "", "label", "score", "area", "box"))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
        said = f"<p>{escape(remark)}</p>" if remark else ""
        return f'<div><img src="data:image/jpeg;base64,{jpeg}" alt="picture with its objects">{table}{said}</div>'

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None, **_: Any
    ) -> dict[str, Any]:
        makers = {"text/plain": self.__repr__, "text/html": self._repr_html_, "image/png": self._repr_png_}
        wanted = set(include or makers) - set(exclude or ())
        return {kind: make() for kind, make in makers.items() if kind in wanted}


def _cells(index: int, row: Row) -> str:
    red, green, blue = color_of(index)  # as the picture has it
    cells = (
        f'<span style="color: rgb({red}, {green}, {blue})">&#9632;</span>',
        str(index),
        escape(row.name),
        f"{row.score:.2f}",
        f"{row.area:,}",
        ", ".join(f"{bound:g}" for bound in row.box),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _file(image: PIL.Image.Image, form: str) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    small.save(file, form)
    return file.getvalue()
