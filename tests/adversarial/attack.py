"""How an attack goes on as long as a test wants it to."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from waiting import wait_until


@contextmanager
def attacked(attack: Callable[[], str], callers: int = 4) -> Iterator[Counter[str]]:
    """Attacks over and over, as so many callers at once, until the context ends.

    Args:
        attack: One attack; returns how it was answered.
        callers: Each on a thread of its own.

    Yields:
        How often which answer came. An attack that raises ends the test with it.
    """
    answers: Counter[str] = Counter()
    raised: list[BaseException] = []
    over = threading.Event()

    def run() -> None:
        while not over.is_set() and not raised:
            try:
                answers[attack()] += 1
            except BaseException as error:  # noqa: BLE001 - raised again below
                raised.append(error)

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: answers or raised)
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]
