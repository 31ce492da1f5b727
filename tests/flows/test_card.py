"""Cards: what was edited is refused, what asks for too much is bounded, and neither can hang."""

import hashlib
import json
import math
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from molflowctl.errors import UnverifiedCard, UserError
from molflowctl.flows.card import flow_sha256, read_card, sealed, stamp
from molflowctl.flows.flow import Flow
from molflowctl.models.zoo import ConformerFlow, DeNovoFlow, flow_names

SMALL = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 4}
ARGUMENTS = {
    "denovo": {
        "elements": [6, 7, 8], "charges": [-1, 0, 1], "sizes": {"4": 2, "5": 3},
        "network": SMALL,
    },
    "conformer": {"elements": [1, 6, 8], "sizes": {"9": 4}, "network": SMALL},
}  # fmt: skip
KINDS = {"denovo": DeNovoFlow, "conformer": ConformerFlow}


@pytest.fixture(params=KINDS)
def folder(request, tmp_path) -> Path:
    torch.manual_seed(0)
    flow = KINDS[request.param](**ARGUMENTS[request.param])
    return flow.save(tmp_path / "flow", {"sampling": {"churn": 2.0}, "data": {"name": "qm9"}})


def edit(folder: Path, *, seal: bool, **changes) -> None:
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(sealed(card) if seal else card))


def arguments_of(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())["arguments"]


@pytest.mark.parametrize("name", sorted(flow_names()))
def test_shipped_cards_have_the_hash_of_what_they_say(name):
    card = json.loads((flow_names()[name] / "card.json").read_text())
    assert card["flow_sha256"] == flow_sha256(card)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_card(flow_names()[name]) == card


@pytest.mark.parametrize(
    "change",
    [
        {"elements": [6, 7, 16]},
        {"sizes": {"4": 2, "5": 4}},
        {"position_scale": 1.1},
        {"hydrogens": "implicit "},
    ],
    ids=lambda c: next(iter(c)),
)
def test_arguments_that_were_edited_are_refused(folder, change):
    edit(folder, seal=False, arguments=arguments_of(folder) | change)
    with pytest.raises(UserError, match=r"card\.json was edited or is damaged"):
        Flow.load(folder)


@pytest.mark.parametrize(
    "change", [{"sampling": {"churn": 3.0}}, {"weights_sha256": "0" * 64}, {"kind": "denovo-gate"}]
)
def test_so_is_all_else_that_defines_the_flow(folder, change):
    edit(folder, seal=False, **change)
    with pytest.raises(UserError, match="was edited or is damaged"):
        Flow.load(folder)


def test_a_description_may_be_edited(folder):
    edit(folder, seal=False, description="mine", metrics={"valid": 0.9})
    assert Flow.load(folder).card["description"] == "mine"


def test_a_card_of_an_earlier_version_loads_with_a_warning_until_it_is_stamped(folder):
    card = json.loads((folder / "card.json").read_text())
    del card["flow_sha256"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.warns(UnverifiedCard, match="--stamp"):
        Flow.load(folder)
    stamp(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Flow.load(folder)
    assert {k: v for k, v in json.loads((folder / "card.json").read_text()).items()
            if k != "flow_sha256"} == card  # fmt: skip


def test_the_hash_does_not_depend_on_the_order_or_on_what_python_calls_it(folder):
    flow = Flow.load(folder)
    card = json.loads((folder / "card.json").read_text())
    turned = dict(reversed(card.items()))
    turned["arguments"] = dict(reversed(card["arguments"].items()))
    assert flow_sha256(turned) == flow_sha256(card) == flow_sha256(flow.card)


ASKING = {
    "a million layers": {"network": SMALL | {"depth": 1_000_000}},
    "500 layers": {"network": SMALL | {"depth": 500}},
    "a network wider than its weights": {"network": SMALL | {"width": 8192}},
    "pairs wider than their weights": {"network": SMALL | {"pair_width": 4096}},
    "no vectors": {"network": SMALL | {"vectors": 0}},
    "no heads": {"network": SMALL | {"heads": 0}},
    "half a layer": {"network": SMALL | {"depth": 1.5}},
    "a true layer": {"network": SMALL | {"depth": True}},
    "a negative width": {"network": SMALL | {"width": -16}},
    "a network that is a text": {"network": "wide"},
    "no sizes": {"sizes": {}},
    "sizes as a list": {"sizes": [4, 5]},
    "a size that is no number": {"sizes": {"many": 1}},
    "a size of a billion": {"sizes": {"1000000000": 1}},
    "a size of nothing": {"sizes": {"0": 1}},
    "a count of nothing": {"sizes": {"5": 0}},
    "a negative count": {"sizes": {"5": -3}},
    "half a molecule": {"sizes": {"5": 0.5}},
    "no elements": {"elements": []},
    "element 10^12": {"elements": [6, 10**12]},
    "element 0": {"elements": [0, 6]},
    "an element twice": {"elements": [6, 6, 8]},
    "an element by name": {"elements": ["C"]},
    "a scale of nothing": {"position_scale": 0},
    "a negative scale": {"position_scale": -1.2},
    "a scale beyond bounds": {"position_scale": 1e300},
    "hydrogens of a third kind": {"hydrogens": "some"},
    "an unknown argument": {"colour": "red"},
    "a number of 400 digits": {"position_scale": 10**400},
    "a list of a million": {"elements": [6] * 1_000_000},
}


@pytest.mark.parametrize("change", ASKING.values(), ids=ASKING)
def test_what_no_flow_has_is_refused_even_under_a_right_hash(folder, change):
    edit(folder, seal=True, arguments=arguments_of(folder) | change)
    with pytest.raises(UserError, match=r"card\.json") as error:
        Flow.load(folder)
    assert len(str(error.value).replace(str(folder), "")) < 400


@pytest.mark.parametrize("charges", [[], [0, 2], [1, 0], [-100, -99], ["0"]])
def test_charges_are_whole_and_in_a_row(tmp_path, charges):
    folder = DeNovoFlow(**ARGUMENTS["denovo"]).save(tmp_path)
    edit(folder, seal=True, arguments=arguments_of(folder) | {"charges": charges})
    with pytest.raises(UserError, match=r"card\.json"):
        Flow.load(folder)


CARDS = {
    "no JSON": b"{",
    "a list": b"[]",
    "nothing": b"",
    "zero bytes": b"\0" * 100,
    "not UTF-8": b"\xff\xfe",
    "100,000 brackets": b"[" * 100_000,
    "10,000 levels": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "100 levels": b'{"arguments":' + b'{"a":' * 100 + b"1" + b"}" * 101,
    "5,000 digits": b'{"kind": "denovo", "arguments": {"sizes": ' + b"1" * 5000 + b"}}",
    "infinity": b'{"kind": "denovo", "arguments": {"position_scale": Infinity}}',
    "NaN": b'{"kind": "denovo", "arguments": {"position_scale": NaN}}',
    "data is a list": b'{"kind": "denovo", "arguments": {}, "data": []}',
    "sampling is a text": b'{"kind": "denovo", "arguments": {}, "sampling": "much"}',
    "a churn of words": b'{"kind": "denovo", "arguments": {}, "sampling": {"churn": "much"}}',
    "a churn without end": b'{"kind": "denovo", "arguments": {}, "sampling": {"churn": 1e999}}',
    "a hash that is a number": b'{"kind": "denovo", "arguments": {}, "flow_sha256": 3}',
}


@pytest.mark.parametrize("content", CARDS.values(), ids=CARDS)
def test_cards_that_are_none_are_refused(folder, content):
    (folder / "card.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a flow's card") as error:
        Flow.load(folder)
    assert len(str(error.value).replace(str(folder), "")) < 300


@pytest.mark.parametrize("name", ["card.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device"])
def test_what_is_no_file_is_refused_at_once(folder, name, kind):
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match=name):
        Flow.load(folder)


def test_a_sparse_file_of_a_terabyte_is_refused_at_once(folder):
    with (folder / "weights.safetensors").open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(UserError, match="1,000,000,000,000 bytes"):
        Flow.load(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(folder, value):
    tensors = load_file(folder / "weights.safetensors")
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    edit(folder, seal=True, weights_sha256=digest)
    with pytest.raises(UserError, match="not finite"):
        Flow.load(folder)
