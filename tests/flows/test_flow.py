"""Flows survive the disk; nothing that is not one gets in, and nothing is ever unpickled."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from molflowctl.errors import UserError
from molflowctl.flows.card import sealed
from molflowctl.flows.flow import Flow, flow_names
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.noise import BatchNoise


class Straight(Flow):
    """Endpoint `W x + b` at every time."""

    kind = "test-straight"

    def __init__(self, width: int) -> None:
        super().__init__(width=width)
        self.layer = torch.nn.Linear(width, width)

    def endpoint(self, x, t):
        return self.layer(x)

    def noise_like(self, x, noise):
        return noise.normal(*x.shape)


class Bent(Straight):
    kind = "test-bent"


@pytest.fixture
def saved(tmp_path) -> Path:
    torch.manual_seed(0)
    return Straight(4).save(tmp_path / "flow")


def rewrite_card(folder: Path, **changes) -> None:
    path = folder / "card.json"
    card = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(sealed({k: v for k, v in card.items() if v is not None})))


def vouch(folder: Path) -> None:
    """Let the card confirm whatever the weights are now, so that only their reader can object."""
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    rewrite_card(folder, weights_sha256=digest)


def test_weights_are_kept_to_sixteen_bits(tmp_path) -> None:
    torch.manual_seed(1)
    flow = Straight(4)
    flow.card = {"licence": "CC0"}
    folder = flow.save(tmp_path / "deep" / "flow", {"name": "first"})
    back = Flow.load(folder)
    assert type(back) is Straight
    assert not back.training
    for name, tensor in flow.state_dict().items():
        loaded = back.state_dict()[name]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, tensor.half().float())
    card = json.loads((folder / "card.json").read_text())
    assert card == back.card == flow.card
    assert {k: card[k] for k in ("licence", "name", "kind", "arguments", "parameters")} == {
        "licence": "CC0",
        "name": "first",
        "kind": "test-straight",
        "arguments": {"width": 4},
        "parameters": 20,
    }
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "weights.safetensors"]


def test_saving_again_changes_nothing(saved, tmp_path) -> None:
    again = Flow.load(saved).save(tmp_path / "again")
    for name in ("weights.safetensors", "card.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_what_the_umask_lets_them(saved) -> None:
    modes = {(saved / name).stat().st_mode for name in ("weights.safetensors", "card.json")}
    assert len(modes) == 1


def test_load_checks_the_class(saved) -> None:
    assert type(Straight.load(saved)) is Straight
    with pytest.raises(UserError, match=r"kind 'test-straight'; expected one of \['test-bent'\]"):
        Bent.load(saved)


def flip(folder: Path) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def truncate_and_vouch(folder: Path) -> None:
    truncate(folder)
    vouch(folder)


def empty_and_vouch(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"")
    vouch(folder)


def exchange(folder: Path) -> None:
    torch.manual_seed(9)
    other = Straight(4).save(folder / "other")
    os.replace(other / "weights.safetensors", folder / "weights.safetensors")


def foreign_tensors(folder: Path) -> None:
    save_file({"layer.weight": torch.zeros(4, 4)}, folder / "weights.safetensors")
    vouch(folder)


def foreign_shapes(folder: Path) -> None:
    rewrite_card(folder, arguments={"width": 5})


def no_card(folder: Path) -> None:
    (folder / "card.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def not_json(folder: Path) -> None:
    (folder / "card.json").write_text("{")


def a_list(folder: Path) -> None:
    (folder / "card.json").write_text("[]")


DAMAGE = {
    flip: "damaged or was exchanged: its SHA-256 is not its card's",
    truncate: "damaged or was exchanged",
    truncate_and_vouch: "cannot be read as safetensors",
    empty_and_vouch: "cannot be read as safetensors",
    exchange: "damaged or was exchanged",
    foreign_tensors: r"does not fit the network its card describes \(1 tensors differ.*layer\.bias",
    foreign_shapes: r"does not fit the network its card describes \(2 tensors differ",
    no_card: r"is no flow: it has no card\.json",
    no_weights: r"has a card but no weights\.safetensors",
    not_json: "cannot be read as a flow's card",
    a_list: "cannot be read as a flow's card",
    lambda f: rewrite_card(f, kind="martian"): "kind 'martian'; expected one of .*test-straight",
    lambda f: rewrite_card(f, kind=["a"]): "cannot be read as a flow's card",
    lambda f: rewrite_card(f, kind=None): "cannot be read as a flow's card",
    lambda f: rewrite_card(f, arguments={"height": 4}): "arguments this version rejects.*height",
    lambda f: rewrite_card(f, arguments={"width": -4}): "arguments this version rejects",
    lambda f: rewrite_card(f, arguments=[4]): "cannot be read as a flow's card",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_what_is_wrong_is_said(saved, damage) -> None:
    damage(saved)
    with pytest.raises(UserError, match=DAMAGE[damage]):
        Flow.load(saved)


@pytest.mark.parametrize("error", [AttributeError("items"), KeyError("width")], ids=repr)
def test_arguments_that_the_constructor_trips_over(saved, monkeypatch, error) -> None:
    def trip(self, **arguments):
        raise error

    monkeypatch.setattr(Straight, "__init__", trip)
    with pytest.raises(UserError, match=f"arguments this version rejects.*{error.args[0]}"):
        Flow.load(saved)


def test_a_missing_file_is_not_called_a_pickle(tmp_path) -> None:
    with pytest.raises(UserError, match=r"x\.pt does not exist"):
        Flow.load(tmp_path / "x.pt")


class Bomb:
    """A pickle that makes a folder when it is read."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self):
        return os.mkdir, (str(self.crater),)


def pickled(bomb: Bomb, protocol: int) -> bytes:
    return pickle.dumps({"layer.weight": bomb}, protocol=protocol)


def torch_saved(bomb: Bomb, zipped: bool, path: Path) -> bytes:
    torch.save({"layer.weight": bomb}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


@pytest.fixture(params=[0, 1, 2, 3, 4, 5, "torch zip", "torch legacy"], ids=str)
def explosive(request, tmp_path) -> tuple[bytes, Path]:
    bomb = Bomb(tmp_path / "crater")
    if isinstance(request.param, int):
        return pickled(bomb, request.param), bomb.crater
    return torch_saved(bomb, request.param == "torch zip", tmp_path / "saved"), bomb.crater


def test_the_bomb_is_live(tmp_path) -> None:
    bomb = Bomb(tmp_path / "crater")
    pickle.loads(pickled(bomb, 4))
    assert bomb.crater.exists()


@pytest.mark.parametrize("vouched", [True, False], ids=["vouched", "unvouched"])
def test_pickled_weights_are_never_opened(saved, explosive, vouched) -> None:
    data, crater = explosive
    (saved / "weights.safetensors").write_bytes(data)
    if vouched:
        vouch(saved)
    else:
        rewrite_card(saved, weights_sha256=None)
    with pytest.raises(UserError, match=r"is a pickle.*not read|cannot be read as safetensors"):
        Flow.load(saved)
    assert not crater.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".PT", ".bin", ".joblib"])
def test_paths_of_pickles_are_refused_unread(explosive, tmp_path, suffix) -> None:
    data, crater = explosive
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    for load in (Flow.load, Flow.from_pretrained):
        with pytest.raises(UserError, match=r"looks like a pickle.*not read.*Give the folder"):
            load(path)
    assert not crater.exists()


def test_safetensors_whose_header_looks_like_a_pickle_or_a_zip(tmp_path) -> None:
    """The first bytes of the file are the header's length, which may be that of a PK or a PROTO."""
    for size in (int.from_bytes(b"PK", "little"), 0x180):
        folder = Straight(4).save(tmp_path / str(size))
        path = folder / "weights.safetensors"
        tensors, room = load_file(path), 8
        while True:
            save_file(tensors, path, metadata={"note": "x" * room})
            header = int.from_bytes(path.read_bytes()[:8], "little")
            if header >= size:
                break
            room += size - header
        assert header == size
        vouch(folder)
        Flow.load(folder)


@pytest.fixture
def zoo(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MOLFLOWCTL_ZOO", str(tmp_path / "zoo"))
    for name in ("rings-large", "rings-small"):
        Straight(2).save(tmp_path / "zoo" / name)
    (tmp_path / "zoo" / "notes").mkdir()
    return tmp_path / "zoo"


def test_flows_of_a_folder_of_ones_own_are_known_by_name(zoo) -> None:
    names = flow_names()
    assert names["rings-small"] == zoo / "rings-small"
    assert "notes" not in names
    assert type(Flow.from_pretrained("rings-large")) is Straight
    assert type(Flow.from_pretrained(zoo / "rings-large")) is Straight
    assert type(Straight.from_pretrained(str(zoo / "rings-large"))) is Straight


def test_unknown_names_give_the_nearest(zoo) -> None:
    with pytest.raises(UserError, match=r"no flow or folder 'ring-smal'; did you mean rings-small"):
        Flow.from_pretrained("ring-smal")
    with pytest.raises(
        UserError, match=r"no flow or folder 'xyzzy'; known: .*rings-large, rings-small"
    ):
        Flow.from_pretrained("xyzzy")


def test_a_name_goes_before_a_folder_of_that_name(zoo, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Bent(2).save("rings-small")
    assert type(Flow.from_pretrained("rings-small")) is Straight
    assert type(Flow.from_pretrained("./rings-small")) is Bent
    Bent(2).save("other")
    assert type(Flow.from_pretrained("other")) is Bent


def test_a_folder_that_does_not_exist(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no flow or folder '.*nothing'; known: "):
        Flow.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"nothing\.pt does not exist"):
        Flow.from_pretrained("nothing.pt")


def test_without_a_zoo_nothing_is_asked_of_the_environment(monkeypatch) -> None:
    monkeypatch.delenv("MOLFLOWCTL_ZOO", raising=False)
    assert "rings-small" not in flow_names()


def test_velocity_and_score_come_from_the_endpoint() -> None:
    flow = Straight(3)
    x, t = torch.randn(5, 3), torch.tensor([0.0, 0.2, 0.5, 0.8, 0.9])
    end = flow.endpoint(x, t)
    torch.testing.assert_close(flow.velocity(x, t), (end - x) / (1 - t[:, None]))
    score = (t[:, None] * end - x) / (1 - t[:, None]) ** 2  # -E[x_0 | x_t] / (1 - t)
    torch.testing.assert_close(flow.score_function(x, t), score)


def test_endpoint_error_is_the_error_of_a_velocity_up_to_its_bound() -> None:
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    t = torch.tensor([0.0, 0.5, 0.999])
    error = Straight(4).endpoint_error(a, b, t)
    weight = torch.tensor([1 / 1.02, 1 / 0.27, 20.0])
    torch.testing.assert_close(error, weight * (a - b).square().sum(1))


# Training loss, start and samples, on a flow in closed form ---------------------------------------

PLANE = {
    "weights": [0.5, 0.5],
    "means": [[1.0, 0.0], [-1.0, 1.0]],
    "sds": [0.4, 0.3],
    "covariance": [[1.0, 0.6], [0.6, 1.2]],
}


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_loss_of_an_exact_flow_is_what_cannot_be_known(path, t) -> None:
    """`W^2 V c / (a^2 V + b^2 c)` for data `N(m, V)` and noise `N(0, c)`."""
    n, variance, noise = 40_000, 0.49, 1.5
    flow = MixtureFlow([1.0], [[0.8]], [variance**0.5], covariance=[[noise]], path=path)
    a, b, da, db = flow.path.coefficients(t)
    losses = flow.loss(flow.exact_sample(n), torch.full((n,), t), BatchNoise(1))
    assert losses.shape == (n,)
    expected = (da * b - a * db) ** 2 * variance * noise / (a**2 * variance + b**2 * noise)
    assert float(losses.mean()) == pytest.approx(expected, abs=4 * float(losses.std()) / n**0.5)


def test_the_exact_flow_has_the_lowest_loss() -> None:
    flow = MixtureFlow(**PLANE)
    x, t = flow.exact_sample(20_000), BatchNoise(3).uniform(20_000)
    exact = flow.loss(x, t, BatchNoise(2)).mean()
    for other in (
        {"means": [[1.2, 0.0], [-1.0, 1.0]]},
        {"weights": [0.8, 0.2]},
        {"sds": [0.6, 0.3]},
    ):
        wrong = MixtureFlow(**{**PLANE, **other}).loss(x, t, BatchNoise(2)).mean()
        assert wrong > exact + 0.003


def test_training_lowers_the_loss_towards_it() -> None:
    torch.manual_seed(0)
    target = MixtureFlow(**PLANE)
    flow = MixtureFlow(**{**PLANE, "weights": [0.9, 0.1]}, width=32)
    data, noise = target.exact_sample(4000), BatchNoise(0)
    held, times = target.exact_sample(20_000, seed=9), 0.95 * BatchNoise(8).uniform(20_000)

    def held_loss(f) -> float:
        return f.loss(held, times, BatchNoise(7)).mean().item()

    before = held_loss(flow)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(120):
        rows = torch.randint(4000, (256,), generator=noise.generator)
        loss = flow.loss(data[rows], 0.95 * noise.uniform(256), noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after, least = held_loss(flow), held_loss(target)
    assert least < after < before - 0.5 * (before - least)


@pytest.mark.parametrize("sampler", ["ancestral", "euler-maruyama", "euler", "heun"])
def test_samples_depend_on_the_seed_alone(sampler) -> None:
    flow = MixtureFlow(**PLANE)
    x = flow.sample(7, seed=3, sampler=sampler, nfe=8)
    assert x.shape == (7, 2)
    assert torch.equal(x, flow.sample(7, seed=3, sampler=sampler, nfe=8))
    assert not torch.equal(x, flow.sample(7, seed=4, sampler=sampler, nfe=8))
    assert torch.equal(flow.start(7, BatchNoise(3)), flow.start(7, BatchNoise(3)))


@pytest.mark.parametrize("sampler", ["ancestral", "heun"])
def test_samples_cost_the_evaluations_asked_for(sampler, monkeypatch) -> None:
    flow, calls = MixtureFlow(**PLANE), []
    endpoint = flow.endpoint
    monkeypatch.setattr(flow, "endpoint", lambda x, t: (calls.append(t), endpoint(x, t))[1])
    flow.sample(2, sampler=sampler, nfe=20)
    # Heun's last step is Euler's and saves one.
    assert len(calls) == (20 if sampler == "ancestral" else 19)
