"""Benchmarks are scripts: each test module names its own as FILE."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def script(request):
    """The module of the script, known by its name while its tests run, where dataclasses look."""
    file = request.module.FILE
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, file.stem, module)
        patch.syspath_prepend(file.parent)  # of scripts that use one another
        spec.loader.exec_module(module)
        yield module
