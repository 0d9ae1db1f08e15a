"""spx-reproduce: its rows, its budgets, and a few of them from training to table, stopped and continued."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import write_dataset
from small_networks import small_networks

from spx.api import Sampler
from spx.cli.reproduce import main
from spx.data import load
from spx.evaluation.lenet import LeNet, save_lenet
from spx.io.files import alone_in
from spx.models import registry
from spx.models.model import Row
from spx.models.parts.paper import BASELINE, ROWS, published
from spx.models.spatial.settings import preset as recipe
from spx.reproduce.rows import Budget, rows, select
from spx.reproduce.run import Reproduction, _number
from spx.reproduce.settings import Settings
from spx.reproduce.tables import markdown
from spxcore import SpxError


def made_of(row: Row):
    """The settings of a row's training."""
    return recipe(row.settings["preset"], **{k: v for k, v in row.settings.items() if k not in ("model", "preset")})


def test_every_row_of_the_paper_has_one_and_ours_stands_beside_it():
    everything = rows()
    names = [row.name for row in everything]
    assert len(set(names)) == len(names)
    (baseline,) = [row for row in everything if row.beside == published(BASELINE) and row.name.startswith("paper-")]
    made = registry.family(baseline.settings["model"]).preset(baseline.settings["preset"])
    assert (baseline.name, made.model, made.filters, made.layers, made.dropout) == (
        "paper-28",
        "pixelcnnpp",
        25,
        2,
        0.5,
    )
    for known in ROWS[1:]:
        (row,) = [row for row in everything if row.beside == published(known) and row.name.startswith("paper-")]
        made = made_of(row)
        network = made.network()
        assert (network.patch, network.filters == 140, network.coordinates, network.latent > 0) == (
            known.patch, known.large, known.coordinates, known.latent,
        )  # fmt: skip
        assert made.vae == ("joint" if known.latent else "none") and made.sizes == (28, 28) and made.dropout == 0.5
        assert network.conditioning == "paper"
    ours = [name for name in names if name.startswith("ours-")]
    assert ours == ["ours-28", "ours-20", "ours-12", "ours-4", "ours-16", "ours-16-large", "ours-8"]


def test_ablations_differ_from_ours_in_what_they_say():
    base = next(made_of(row).to_dict() for row in rows() if row.name == "ours-8")
    for row in rows():
        if row.group != "ablations" or row.of:
            continue
        made = made_of(row).to_dict()
        different = {name for name in base if made[name] != base[name]}
        assert (different or row.share != 1) and len(different) <= 3, (row.name, different)


@pytest.mark.parametrize(
    "text, amount, unit", [("2000", 2000, "steps"), ("10m", 10, "minutes"), ("0.5m", 0.5, "minutes")]
)
def test_budgets(text, amount, unit):
    assert Budget.of(text) == Budget(amount, unit)


@pytest.mark.parametrize("text", ["", "0", "m", "-3", "10h", "1.5"])
def test_no_budgets(text):
    with pytest.raises(SpxError, match="budget: expected steps such as 2000"):
        Budget.of(text)


def test_selection():
    assert [row.name for row in select(["paper-8-*", "ablation-temperature-0.9"])] == [
        "paper-8-coordinates-vae", "ours-8", "ablation-temperature-0.9",
    ]  # fmt: skip
    assert select(None) == rows()
    with pytest.raises(SpxError, match="rows: expected names or patterns"):
        select(["paper-9"])


def test_the_list(capsys):
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny data set and a classifier that knows nothing."""
    pytest.importorskip("skimage")
    root = tmp_path_factory.mktemp("reproduce")
    write_dataset(root / "data", train=160, test=8)
    torch.manual_seed(0)
    save_lenet(LeNet(10), root / "lenet", {})
    with small_networks():
        yield root


def reproduced(folder, out, *arguments) -> int:
    counts = ["--samples", "2", "--reconstructions", "2", "--subset", "1", "--contours", "30", "--vae-steps", "2"]
    common = ["--data", "idx", "--data-dir", str(folder / "data"), "--lenet", str(folder / "lenet"), "--out", str(out)]
    return main([*common, *counts, "--device", "cpu", "--threads", "1", *arguments])


ROWS_RUN = ["ours-4", "paper-8-coordinates-vae", "ablation-temperature-0.9"]


@pytest.mark.slow
def test_from_training_to_table(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    # Stopped after the first row's training.
    from spx.evaluation import evaluate

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "evaluate", stopped)
        assert reproduced(folder, out, "--budget", "2", "--rows", *ROWS_RUN) == 130
    trained = (out / "ours-4" / "run" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert reproduced(folder, out, "--budget", "2", "--rows", *ROWS_RUN) == 0
    assert (out / "ours-4" / "run" / "checkpoint" / "model.safetensors").stat().st_mtime_ns == trained
    text = capsys.readouterr().out
    assert text == (out / "results.md").read_text() and "small 4x4, ours" in text
    assert "(1.42)" not in text and "Not run: paper-28," in text  # the paper's figures are of MNIST
    results = json.loads((out / "results.json").read_text())
    beside = markdown(results["rows"], Settings("2"))
    assert "(1.42)" in beside and "(<= 1.67)" in beside and "In brackets: the paper" in beside
    assert list(results["rows"]) == [
        "ours-4",
        "paper-8-coordinates-vae",
        "ours-8",
        "ablation-temperature-0.9",
    ]
    for name, row in results["rows"].items():
        assert row["steps"] == 2 and row["budget"] == "2 steps" and row["likelihood"]["images"] == 1, name
        assert row["sizes"]["28"]["reconstructions"]["images"] == 2, name
    assert results["rows"]["ablation-temperature-0.9"]["of"] == "ours-8"
    assert not (out / "ablation-temperature-0.9" / "run").exists()
    # One VAE for the rows that share it.
    from spx.checkpoints import load_model

    four, eight = (load_model(out / name / "run" / "checkpoint").vae.state_dict() for name in ("ours-4", "ours-8"))
    assert all(torch.equal(four[name], eight[name]) for name in four) and (out / "vae-kl-0.8").is_dir()
    assert not (out / "vae-kl-0.8" / "codes.safetensors").exists()  # minutes, for a network that is thrown away
    # Finished rows are not touched, and a folder keeps to its settings.
    before = (out / "ours-4" / "report.json").stat().st_mtime_ns
    assert reproduced(folder, out, "--budget", "2", "--rows", "ours-4") == 0
    assert (out / "ours-4" / "report.json").stat().st_mtime_ns == before
    assert reproduced(folder, out, "--budget", "3", "--rows", "ours-4") == 2
    assert "budget: expected 2, as" in capsys.readouterr().err


@pytest.mark.slow
def test_a_budget_of_minutes(folder, tmp_path):
    assert reproduced(folder, tmp_path / "out", "--budget", "0.01m", "--rows", "paper-4-coordinates") == 0
    found = json.loads((tmp_path / "out" / "paper-4-coordinates" / "report.json").read_text())
    steps = json.loads((tmp_path / "out" / "paper-4-coordinates" / "steps.json").read_text())
    assert "reconstructions" not in found["sizes"]["28"]
    assert found["vae"] == "none" and found["steps"] == steps["steps"] >= 1 and found["budget"] == "0.01 minutes"
    assert not (tmp_path / "out" / "paper-4-coordinates" / "trial").exists()


@pytest.mark.slow
def test_a_vae_that_is_there_already(folder, tmp_path):
    from spx.checkpoints import load_model, save_checkpoint
    from spx.models.spatial.module import SpatialPixelCNN

    given = SpatialPixelCNN(
        network={"patch": 4, "sizes": [28, 1400]}, vae={"latent": 60}
    )  # even a network like the row's
    save_checkpoint(given, tmp_path / "given")
    out = tmp_path / "out"
    arguments = ["--budget", "1", "--rows", "ours-4", "--samples", "0", "--vae", str(tmp_path / "given")]
    assert reproduced(folder, out, *arguments) == 0
    used = load_model(out / "ours-4" / "run" / "checkpoint")
    assert all(torch.equal(used.vae.state_dict()[name], t) for name, t in given.vae.state_dict().items())
    scales = [p for name, p in used.network.named_parameters() if name.endswith(".g")]
    assert any((p - 1).abs().max() > 0.05 for p in scales)  # not the given network, but one initialised from data
    assert not (out / "vae-kl-0.8" / "checkpoint").exists() and "VAEs: of " in (out / "results.md").read_text()


def test_other_priors():
    from helpers import tiny_model

    from spx.api import Sampler
    from spx.models.spatial.rows import with_prior

    wide = with_prior(tiny_model().checkpoint(), "2.0")
    assert (wide.module().prior.cholesky == 2 * tiny_model().prior.cholesky).all()
    normal = Sampler(with_prior(tiny_model().checkpoint(), "normal"))
    assert normal.module.prior.kind == "normal" and normal.sample(9, n=1, engine="torch").shape == (1, 9, 9, 1)


def test_an_empty_table_names_what_was_not_run():
    text = markdown({}, Settings("5"))
    assert all(row.name in text for row in rows() if isinstance(row, Row)) and "for 5 steps" in text


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--budget", "soon"], "budget: expected steps"),
        (["--rows", "nonsense"], "rows: expected names"),
        (["--contours", "20"], "contours: expected sizes of at least 28"),
        (["--vae", "no-such"], "checkpoint: expected"),
        (["--samples", "-1"], "samples: expected a whole number, 0 to 4294967296"),
    ],
)
def test_refusals(folder, tmp_path, capsys, arguments, sentence):
    assert reproduced(folder, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_two_in_one_folder(folder, tmp_path, capsys):
    """The second one is refused and touches nothing; it goes on once the first has ended."""
    with alone_in(tmp_path / "out"):
        assert reproduced(folder, tmp_path / "out", "--budget", "1", "--rows", "paper-4") == 2
        assert "a run that no other process is at work on" in capsys.readouterr().err
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"lock"}


def test_rows_of_a_family_that_it_does_not_know(folder, tmp_path, capsys, monkeypatch):
    """Listed, trained and judged by what the family says of them; the published figure stands beside."""
    monkeypatch.setitem(registry._FAMILIES, "plain", "plain")
    assert main(["--list"]) == 0 and "plain-row" in capsys.readouterr().out
    out = tmp_path / "out"
    assert reproduced(folder, out, "--budget", "3", "--rows", "plain-*") == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert "**Plain table**" in text and "| `plain-cold` colder | 3 |" in text
    row, cold = (json.loads((out / name / "report.json").read_text()) for name in ("plain-row", "plain-cold"))
    assert (
        row["likelihood"]["patch_bits"] == cold["likelihood"]["patch_bits"]
        and not (out / "plain-cold" / "run").exists()
    )
    assert row["vae"] == "none" and row["steps"] == row["recipe"]["steps"] == 3
    assert row["sizes"]["28"]["samples"] != cold["sizes"]["28"]["samples"]
    score = Sampler.load(out / "plain-row" / "run" / "checkpoint").score(
        load("idx", folder / "data", "test").images[:1].transpose(0, 2, 3, 1)
    )
    assert row["likelihood"]["bound_bits"] == pytest.approx(score.bits[0])
    results = json.loads((out / "results.json").read_text())
    beside = markdown(results["rows"], Settings("3"))
    assert "(7.5)" in beside and "(<= 7.5)" not in beside
    # The row that is changed stands once more in front, without the published figure.
    assert beside.count("`plain-row`") == 2 and beside.count("(7.5)") == 1


@pytest.mark.fault("traceback", "files of a folder of rows that are damaged or of odd values")
def test_files_that_are_damaged(tmp_path):
    path = tmp_path / "steps.json"
    for text in (
        "",
        "[]",
        "[" * 100_000,
        "{}",
        *(f'{{"steps": {v}}}' for v in ('"3"', "null", "true", "-1", "NaN", "[1]", "1e999")),
    ):
        path.write_text(text)
        with pytest.raises(SpxError, match=r"steps\.json.*remove it to have it made again") as caught:
            _number(path, "steps")
        assert "\n" not in str(caught.value)
    path.write_text('{"steps": 3}')
    assert _number(path, "steps") == 3
    work = Reproduction(Settings("2"), tmp_path, "cpu", None)
    report = tmp_path / rows()[0].name / "report.json"
    report.parent.mkdir()
    for text in ("{}", "[]", '{"steps": 3}', '{"steps": 3, "train_seconds": "x", "sizes": {}}'):
        report.write_text(text)
        with pytest.raises(SpxError, match=r"report\.json: .*remove it to have it made again"):
            work._write_tables()
