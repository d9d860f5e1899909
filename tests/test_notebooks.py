"""What notebooks show of results, objects and errors, and the example notebook from beginning to end."""

import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import pytest
from conftest import Photo, RunningServer
from cutout_client import Client, InvalidRequestError, Segmentation
from cutout_client.images import FilePicture, RemotePicture
from nbclient import NotebookClient
from waiting import PATIENCE_S

EXAMPLE = Path(__file__).parent.parent / "examples" / "notebook.ipynb"
FACE = (160, 60, 285, 220)


@pytest.fixture(scope="module")
def result(server: RunningServer, photos: dict[str, Photo]) -> Segmentation:
    with Client(server.address) as client:
        return client.segment_box(photos["astronaut"].jpeg, [FACE, (20, 5, 440, 512)])


def picture_in(html: str) -> PIL.Image.Image:
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return PIL.Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_result_shows_its_picture_and_a_table(result: Segmentation) -> None:
    """The overlay as PNG; as HTML with a row for each object; the bundle has both, or what is asked for."""
    with PIL.Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(result.overlay()))
    html = result._repr_html_()
    assert picture_in(html).size == (512, 512)
    assert html.count("<tr>") == 1 + len(result)
    assert f"<td>{result[1].area:,}</td>" in html
    assert result._repr_mimebundle_().keys() == {"text/plain", "text/html", "image/png"}
    assert result._repr_mimebundle_(include={"text/html", "image/svg+xml"}) == {"text/html": html}
    assert result._repr_mimebundle_(exclude={"image/png", "text/html"}) == {"text/plain": repr(result)}


def test_an_object_shows_itself_on_the_picture(
    server: RunningServer, photos: dict[str, Photo], result: Segmentation
) -> None:
    """It alone, wherever it comes from, after its result is gone, too."""
    expected = np.asarray(picture_in(result[0]._repr_html_()))
    assert np.abs(expected.astype(int) - photos["astronaut"].pixels).mean() < 20
    with Client(server.address) as client:
        jpeg = photos["astronaut"].jpeg
        with client.stream(jpeg, boxes=[FACE]) as stream, client.session(jpeg) as session:
            for each in (client.segment_box(jpeg, FACE)[0], next(iter(stream)), session.box(FACE)[0]):
                assert np.array_equal(np.asarray(picture_in(each._repr_html_())), expected)


def test_what_has_no_picture_is_shown_on_a_plain_ground(result: Segmentation, tmp_path: Path) -> None:
    """One that only the server has, or a file that is gone."""
    for picture in (RemotePicture(image_id="1"), FilePicture(tmp_path / "gone.jpg")):
        message = result.message
        again = type(result)(**vars(result) | {"picture": picture, "message": message})
        with PIL.Image.open(io.BytesIO(again._repr_png_())) as shown:
            assert shown.getpixel((511, 0)) == (235, 235, 235)
            assert shown.getpixel((220, 140)) != (235, 235, 235)


def test_labels_are_text(result: Segmentation) -> None:
    """Whatever they contain; a long table is cut, and says so; nothing found is said."""
    label = "<script>alert(1)</script>"
    many = type(result)(**vars(result) | {"objects": tuple(relabelled(result[0], label) for _ in range(25))})
    html = many._repr_html_()
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") == 20
    assert "and 5 more" in html
    assert "nothing found" in type(result)(**vars(result) | {"objects": ()})._repr_html_()


def relabelled(each: object, label: str) -> object:
    return type(each)(**{name: value for name, value in vars(each).items() if name != "mask"} | {"label": label})


def test_ipython_prints_what_was_wrong_first(server: RunningServer, photos: dict[str, Photo]) -> None:
    """Each field on its line, then the caller's line; nothing of the client or of gRPC."""
    with Client(server.address) as client, pytest.raises(InvalidRequestError) as refusal:
        client.segment_box(photos["astronaut"].jpeg, (9, 9, 5, 5), mask_threshold=99)
    first, *violations, blank, place, line = refusal.value._render_traceback_()[:6]
    lines = "\n".join([first, *violations, blank]).splitlines()
    assert lines[0].startswith("InvalidRequestError: (INVALID_ARGUMENT, request ")
    assert lines[1].startswith("  boxes[0].x_max: expected ")
    assert lines[3].startswith("  options.mask_threshold: expected a number in [-32, 32], got 99")
    assert "test_notebooks.py" in place
    assert "client.segment_box(" in line
    assert "grpc" not in "".join(refusal.value._render_traceback_()[1:])


def test_the_example_runs_from_beginning_to_end(
    server: RunningServer, photos: dict[str, Photo], tmp_path: Path
) -> None:
    """Every cell, by nbclient; results bring picture and table, the one error its fields and no transport."""
    (tmp_path / "cat.jpg").write_bytes(photos["chelsea"].jpeg)
    notebook = nbformat.read(EXAMPLE, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the example is kept without outputs"
    for cell in notebook.cells:
        cell.source = cell.source.replace("localhost:50051", server.address)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    assert sum({"text/html", "image/png"} <= data.keys() for data in shown) == 3
    (error,) = (output for output in outputs if output.output_type == "error")
    assert error.ename == "InvalidRequestError"
    text = "\n".join(error.traceback)
    assert text.index("options.mask_threshold: expected") < text.index("client.segment_box(")
    assert "grpc" not in text
    assert (tmp_path / "out" / "cat.cvat" / "annotations.xml").exists()
