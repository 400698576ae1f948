"""What every unit test begins with."""

import zlib

import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Alone or after others, a test finds torch's global generator in the same state."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))
