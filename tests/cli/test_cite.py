"""`cite` and CITATION.cff name the same works."""

import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

import molflowctl
from molflowctl.cli import app

TEXT = (Path(__file__).parents[2] / "CITATION.cff").read_text()
CFF = yaml.safe_load(TEXT)


def test_cite_prints_the_works_of_the_citation_file():
    shown = CliRunner().invoke(app, ["cite"]).output
    for work in [CFF, *CFF["references"]]:
        assert work["title"] in shown
        for author in work["authors"]:
            assert author.get("family-names", "developers") in shown
    for number in re.findall(r"arxiv.org/abs/([\d.]+)", TEXT):
        assert f"arXiv:{number}" in shown


def test_the_citation_file_has_this_version():
    assert CFF["version"] == molflowctl.__version__
