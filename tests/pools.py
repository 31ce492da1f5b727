"""What stands for a pool of workers in tests."""

from molflowctl.compute.parallel import Outcome


class InProcess:
    """A pool without processes, whose start would take longer than the work."""

    def __init__(self, jobs, isolate):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items, *, timeout, chunk, progress=lambda count: None):
        for count, item in enumerate(items, start=1):
            progress(count)
            try:
                yield Outcome(function(item))
            except ValueError as error:
                yield Outcome(error=str(error))
