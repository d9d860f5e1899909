"""What is remembered of an object: it forgets what no later frame asks for, and tells how much it will be."""

import pytest
import torch
from cutout_server.models.memory_bank import Look, MemoryBank
from cutout_server.models.queries import TrackQuery


@pytest.mark.parametrize("reverse", [False, True])
def test_memory_forgets_what_lies_behind_either_way(reverse):
    """Going backwards, frames with higher numbers are the old ones; what is ahead, prompted, stays."""
    bank = MemoryBank()
    look = Look(*(torch.zeros(1) for _ in range(3)))
    for number in (2, 18):
        bank = bank.with_look(number, look, prompted=True)
    for number in range(20):
        bank = bank if number in (2, 18) else bank.with_look(number, look, prompted=False)
    bank = bank.trimmed(TrackQuery(None, 10, bank, None, 11 if reverse else 9, reverse), attended=2, pointed=4)
    ahead = [n for n in range(20) if (n < 10 if reverse else n > 10) and n not in (2, 18)]
    behind = [10, 11, 12, 13, 14, 15] if reverse else [5, 6, 7, 8, 9, 10]
    assert sorted(bank.followed) == sorted(ahead + behind)
    assert sorted(bank.prompted) == [2, 18]
    old = [n for n in behind if bank.followed[n].features is None]
    assert old == ([14, 15] if reverse else [5, 6])


@pytest.mark.parametrize(("attended", "pointed", "held"), [(6, 15, 4), (6, 15, 1), (3, 2, 2)])
def test_memory_tells_from_the_first_frame_on_how_much_it_will_be(attended, pointed, held):
    """To the byte, while nothing more is said of the object."""
    look = Look(*(torch.zeros(size) for size in (100, 10, 1)))
    bank, sizes, told = MemoryBank(), [], set()
    for number in range(40):
        bank = bank.with_look(number, look, prompted=not number)
        bank = bank.trimmed(TrackQuery(None, number, bank, None, max(0, number - held + 1)), attended, pointed)
        sizes.append(bank.nbytes)
        told.add(bank.grown(held))
    assert told == {max(sizes)}
