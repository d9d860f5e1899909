"""What a server consists of: all of it is given back."""

import pytest
from cutout_server.parts import Parts
from cutout_server.settings import Settings


@pytest.mark.parametrize("broken", ["pools", "arrivals", "decoders", "video decoders"])
async def test_one_that_cannot_be_given_back_keeps_no_other(broken: str, monkeypatch: pytest.MonkeyPatch):
    """The others are; then what it raised is raised."""
    parts = Parts(Settings(engine="eager", precision="fp32"))
    several = {
        "pools": parts.pools,
        "arrivals": parts._arrivals,
        "decoders": parts.decoders,
        "video decoders": parts.video_decoders,
    }
    closed: list[str] = []

    def note(name: str) -> None:
        close = several[name].close

        async def noted() -> None:
            await close()
            closed.append(name)
            if name == broken:
                raise OSError("it does not end")

        monkeypatch.setattr(several[name], "close", noted)

    for name in several:
        note(name)
    folder = parts.store._folder.path
    assert folder.is_dir()
    with pytest.raises(OSError, match="it does not end"):
        await parts.close()
    assert closed == list(several)
    assert not folder.exists()
    for threads in (parts._decoding, parts._encoding):
        with pytest.raises(RuntimeError):
            threads.submit(int)
