"""A stream of molecules does not grow: what was yielded is forgotten."""

import tracemalloc

from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Drawn, Sampling, draws


def finish(drawn: Drawn) -> bytes:
    return bytes(2_000)  # so that 4,000 attempts that stay are seen: 8 MB


def test_memory_of_a_stream_is_flat(tiny_flow):
    flow = DeNovoFlow.load(tiny_flow)
    sampling = Sampling(nfe=1, relax="none")
    peaks = {}
    tracemalloc.start()
    try:
        for n, _ in enumerate(draws(flow, sampling, count=6_000, finish=finish), start=1):
            if n in (2_000, 6_000):
                peaks[n] = tracemalloc.get_traced_memory()[1]
                tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert n == 6_000
    assert peaks[6_000] - peaks[2_000] < 5e6
