"""What holds for all tests."""

import os

import pytest
from hypothesis import settings

settings.register_profile("untimed", parent=settings(), deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="module")
def one_thread():
    """Threads of torch that wait for each other on a busy machine take longer than the work itself."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch):
    """The bytes of every read that the system is asked for by `os.preadv`."""
    found = []
    real = os.preadv

    def preadv(descriptor, buffers, *place):
        found.append(real(descriptor, buffers, *place))
        return found[-1]

    monkeypatch.setattr(os, "preadv", preadv)
    return found
