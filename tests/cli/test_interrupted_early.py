"""Ctrl-C before a command has begun, or within a library of another language: no traceback."""

import os
import signal

import pytest
import typer

import molflowctl.cli
from molflowctl.cli.console import guarded


def test_ctrl_c_while_the_options_are_read(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(molflowctl.cli, "app", interrupted)
    with pytest.raises(SystemExit) as end:
        molflowctl.cli.main()
    assert end.value.code == 130


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interruption_that_a_library_made_another_error_of(number, status):
    # A background job ignores some signals; here none is.
    plain = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    at_first = signal.signal(number, plain)

    @guarded
    def command():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of an object") from None

    with pytest.raises(typer.Exit) as end:
        command()
    found = signal.signal(number, at_first)
    assert end.value.exit_code == status
    assert found == plain


def test_an_error_of_its_own_stays_one():
    @guarded
    def command():
        raise ValueError("an error")

    with pytest.raises(ValueError, match="an error"):
        command()
