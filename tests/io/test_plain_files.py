"""Records that any program reads."""

import json
import math

import pytest

from molflowctl.io.plain_files import json_text

CASES = [
    ({"a": math.nan, "b": [1.5, math.inf, (-math.inf,)]}, {"a": None, "b": [1.5, None, [None]]}),
    ({"deep": [{"x": math.nan}], "n": 3, "s": "NaN", "no": None}, None),
    ([], []),
]


@pytest.mark.parametrize(("content", "expected"), CASES)
def test_what_is_no_number_is_null(content, expected):
    def refuse(token: str):
        raise AssertionError(f"{token} is not JSON")

    found = json.loads(json_text(content), parse_constant=refuse)
    assert found == (expected if expected is not None else {**content, "deep": [{"x": None}]})


def test_what_json_lacks_is_written_by_the_default():
    assert json.loads(json_text({"a": {1}}, default=sorted)) == {"a": [1]}
