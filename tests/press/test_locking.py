"""One press at a time, and no lock outlives its holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from book import locking
from book.errors import PressError

HOLD = "from book import locking\nwith locking.hold('site', 'build'):\n print('held', flush=True)\n input()"


@pytest.fixture
def holder(tree):
    """Another process that holds the lock until it is told otherwise."""
    call = [sys.executable, "-c", HOLD]
    process = subprocess.Popen(
        call, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_who_does_not_wait_is_told_who_holds_it(holder):
    said = rf"cannot clean now: pid {holder.pid}, since \d\d:\d\d:\d\d \(build\) is at work"
    with pytest.raises(PressError, match=said), locking.hold("site", "clean"):
        pass


def test_who_waits_is_told_and_gets_it(holder):
    told = []

    def waiting(text):
        told.append(text)
        holder.communicate("\n")

    with locking.hold("site", "build", waiting):
        assert f"pid {os.getpid()}" in locking.holder("site")
    assert told[0].startswith(f"waits for pid {holder.pid}, since")


def test_a_killed_holder_blocks_nobody(holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locking.hold("site", "clean"):
        assert f"pid {os.getpid()}" in locking.holder("site")


def test_locks_of_different_names_do_not_meet(holder):
    with locking.hold("demo-quick", "run"):
        pass
