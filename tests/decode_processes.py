"""The processes of this one's servers that decode pictures."""

import os

import psutil


def decode_processes() -> list[psutil.Process]:
    """Those that run; others that a test has started, or that Python has for itself, are none."""
    found = []
    for child in psutil.Process().children():
        try:
            command = child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # It has just ended.
            continue
        if command and command[-1] == str(os.getpid()):  # A decoder is told last whose it is.
            found.append(child)
    return found
