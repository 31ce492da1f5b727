"""Ctrl-C before a command has begun ends without a traceback."""

import pytest

import molflowctl.cli


def test_ctrl_c_while_the_options_are_read(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(molflowctl.cli, "app", interrupted)
    with pytest.raises(SystemExit) as end:
        molflowctl.cli.main()
    assert end.value.code == 130
