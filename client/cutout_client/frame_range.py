"""Which frames of a video are wanted."""

from numbers import Integral

from cutout_client.messages import of_type


def check_range(start: int, end: int | None, every: int) -> None:
    """Refuses a range in which there is no frame.

    Raises:
        TypeError: One of them is no whole number.
        ValueError: They do not go together.
    """
    for name, value in (("start", start), ("every", every), *([] if end is None else [("end", end)])):
        of_type(name, value, Integral, "a whole number")
    if start < 0 or every < 1 or (end is not None and end <= start):
        raise ValueError(f"expected 0 <= start < end and every >= 1, got {start}, {end}, {every}")
