"""The folder of a run: what is its own, and what it leaves alone."""

import pytest

from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.tasks.steering.run_folder import RunFolder
from molflowctl.tasks.steering.settings import FinetuneConfig

OWN = ("data", "training", "rounds")


def run(out, resume=False, overwrite=False, **changes) -> RunFolder:
    config = FinetuneConfig(flow="parent", out=out, reward="logp", **changes)
    flow = MixtureFlow([1.0], [[0.0]], [1.0])
    return RunFolder(config, ["parent"], [flow], resume=resume, overwrite=overwrite)


def fill(folder, *names) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "precious.csv").write_text("1")


def left(folder) -> set[str]:
    return {path.parent.name for path in folder.rglob("precious.csv")}


@pytest.mark.parametrize("way", [{"resume": True}, {"overwrite": True}])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, way) -> None:
    fill(tmp_path, *OWN)
    with pytest.raises(UserError, match="holds no run"):
        run(tmp_path, **way)
    assert left(tmp_path) == set(OWN)
    assert len(list(tmp_path.iterdir())) == len(OWN)


def test_a_folder_that_is_not_empty_needs_a_word(tmp_path) -> None:
    run(tmp_path)
    with pytest.raises(UserError, match="--resume or --overwrite"):
        run(tmp_path)


def test_what_a_run_made_is_resumed_or_begun_again(tmp_path) -> None:
    run(tmp_path / "new", resume=True)  # nothing there to resume is no error
    fill(tmp_path / "new", *OWN, "mine")
    run(tmp_path / "new", resume=True)
    assert left(tmp_path / "new") == {*OWN, "mine"}
    with pytest.raises(UserError, match="lr = "):
        run(tmp_path / "new", resume=True, lr=0.1)
    again = run(tmp_path / "new", overwrite=True, lr=0.1)
    assert again.out != tmp_path / "new"  # the earlier run stays until the new one is whole
    assert left(tmp_path / "new") == {*OWN, "mine"}
    again.finish(MixtureFlow([1.0], [[0.0]], [1.0]), "finetune", {}, {})
    assert left(tmp_path / "new") == {"mine"}
    assert (tmp_path / "new" / "card.json").exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("names", [("card.json", "molecules.safetensors"), ("config.yaml",)])
def test_data_sets_and_trainings_are_not_overwritten(tmp_path, names) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="holds no run"):
        run(tmp_path, overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, "{}"
    )


def test_a_flow_without_a_run_is_overwritten_and_not_resumed(tmp_path) -> None:
    MixtureFlow([1.0], [[0.0]], [1.0]).save(tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        run(tmp_path, resume=True)
    before = (tmp_path / "card.json").read_text()
    again = run(tmp_path, overwrite=True)
    assert not (again.out / "card.json").exists()
    assert (tmp_path / "card.json").read_text() == before  # until the new run is whole
