"""One thread per process and no network, for every test.

The thread counts have to be set before numpy or torch is first imported; they are inherited by
the processes that tests start.
"""

import errno
import os
import socket

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["MPLBACKEND"] = "Agg"

LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connections leave this machine as little as they would with the cable pulled."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family == socket.AF_UNIX or str(address[0]).startswith(LOOPBACK):
            return connect(self, address)
        raise OSError(errno.ENETUNREACH, f"tests have no network, but one asked for {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield
