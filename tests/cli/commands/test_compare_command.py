"""``l2l compare`` and ``l2l plot``: what is measured, written, continued and refused."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from l2l_lightning.cli.commands import compare
from l2l_lightning.cli.main import main
from l2l_lightning.core.random import Split, Stream, keyed_generator
from l2l_lightning.evaluation.store import Store
from l2l_lightning.files import rule_file

TARGET = {
    "optimizee": {"class_path": "Quadratic", "init_args": {"dim": 3}},
    "data": {
        "class_path": "QuadraticDataModule",
        "init_args": {"dim": 3, "unroll": 5, "steps": 20, "test_problems": 4, "tuning_problems": 4},
    },
}
CONFIG = {
    "rules": [{"class_path": "SGD"}, {"class_path": "Adam"}],
    "torch_optimizers": ["AdamW"],
    "torch_arguments": {"AdamW": {"weight_decay": 0.0}},
    "learning_rates": [0.001, 0.003],
    "targets": {"small": TARGET},
}


FUNCTION = {"class_path": "FunctionDataModule", "init_args": {**TARGET["data"]["init_args"]}}


def written(folder: Path, **changes: object) -> str:
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(CONFIG | changes))
    return str(path)


@pytest.fixture(scope="module")
def compared(run_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a comparison of a learned rule with three others at two horizons."""
    folder = tmp_path_factory.mktemp("compared")
    out = folder / "out"
    more = ("--ckpt_path", str(run_file), "--horizons", "1", "3", "--output_dir", str(out))
    main(["compare", "--config", written(folder), *more])
    return out


@pytest.fixture(scope="module")
def run_file(runs: Path) -> Path:
    return runs / "quadratic_smoke" / "version_0" / "checkpoints" / "last.ckpt"


def test_the_summary_has_its_schema(compared: Path) -> None:
    summary = json.loads((compared / "summary.json").read_text())
    assert set(summary) == {"targets", "settings"}
    assert list(summary["targets"]) == ["small", "small x3"]
    for target in summary["targets"].values():
        assert set(target) == {"contenders", "best_baseline", "ratio_to_best_baseline", "target_loss"}
        assert set(target["contenders"]) == {"quadratic_smoke", "SGD", "Adam", "torch.AdamW"}
        assert target["best_baseline"] in {"SGD", "Adam", "torch.AdamW"}
        means = {name: values["mean_loss"]["mean"] for name, values in target["contenders"].items()}
        assert target["ratio_to_best_baseline"]["mean_loss"] == pytest.approx(
            means["quadratic_smoke"] / means[target["best_baseline"]]
        )
        for name, values in target["contenders"].items():
            assert {"learning_rate", "mean_loss", "final_loss", "diverged", "problems", "seconds_per_step"} <= set(
                values
            )
            assert set(values["final_loss"]) == {"mean", "ci95"}
            assert (values["learning_rate"] is None) == (name == "quadratic_smoke")
            assert (values["seconds_per_step"] is None) == name.startswith("torch."), "these run one by one"
            assert (values["problems"], values["diverged"]) == (4, 0)
        best = target["contenders"][target["best_baseline"]]
        assert best["steps_to_target"] > 0
        if best["seconds_per_step"]:
            assert best["seconds_to_target"] == pytest.approx(best["steps_to_target"] * best["seconds_per_step"])


def test_the_curves_are_those_of_the_optimizers_themselves(compared: Path) -> None:
    """Independent reference: a loop with ``torch.optim`` over the first test problem."""
    rates = json.loads((compared / "summary.json").read_text())["targets"]["small"]["contenders"]
    with (compared / "curves.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["target"], row["problem"]) == ("small", "1")]
    data = compare.parser().instantiate(compare.parser().parse_object({"targets": {"small": TARGET}})).targets["small"]
    window = next(iter(data.data.held_out_windows(Split.TEST)))
    weight, goal = (window.instance[leaf][1] for leaf in ("W", "y"))
    generator = keyed_generator(Stream.INITIALISATION, Split.TEST)
    for _ in range(2):
        data.optimizee.reset_parameters(generator)
    start = next(data.optimizee.parameters()).detach().clone()
    for name, kind in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam), ("torch.AdamW", torch.optim.Adam)):
        theta, losses = nn.Parameter(start.clone()), []
        optimizer = kind([theta], lr=rates[name]["learning_rate"])
        for _ in range(21):
            loss = (weight @ theta - goal).square().sum()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = [float(row["loss"]) for row in rows if row["contender"] == name]
        assert found == pytest.approx(losses, rel=1e-4)


def test_a_grid_whose_best_rate_lies_at_its_edge_grows(compared: Path) -> None:
    contenders = json.loads((compared / "summary.json").read_text())["targets"]["small"]["contenders"]
    assert contenders["SGD"]["learning_rate"] > 0.003
    assert contenders["Adam"]["learning_rate"] > 0.03


def test_tables_figures_and_events_are_written(compared: Path) -> None:
    for name in ("curves", "curves_by_time", "final_losses", "profile", "heatmap"):
        assert (compared / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (compared / f"{name}.svg").read_text()[:1000]
    page = (compared / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs no other file"
    assert "<td>torch.AdamW</td>" in page
    assert "## small x3" in (compared / "table.md").read_text()
    assert len(list((compared / "tensorboard").glob("*/events.out.tfevents.*"))) == 5


def test_an_interrupted_comparison_goes_on(run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["compare", "--config", written(tmp_path), "--ckpt_path", str(run_file)]
    arguments += ["--output_dir", str(tmp_path / "out")]
    measured, original = [], compare._result

    def counting(contender, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(contender.name)
        return original(contender, *rest)

    monkeypatch.setattr(compare, "_result", counting)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    monkeypatch.setattr(compare, "_result", lambda contender, *rest: original(contender, *rest))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert len(before) == 2
    main(arguments)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == 4


def test_plot_draws_anew_from_saved_results(compared: Path) -> None:
    expected = json.loads((compared / "summary.json").read_text())
    for name in ("summary.json", "curves.png", "report.html"):
        (compared / name).unlink()
    main(["plot", str(compared)])
    assert json.loads((compared / "summary.json").read_text()) == expected
    assert (compared / "report.html").is_file()
    assert (compared / "curves.png").is_file()


def test_flags_alone_compare_on_what_the_rule_was_trained_on(run_file: Path, tmp_path: Path) -> None:
    main(["compare", "--ckpt_path", str(run_file), "--problems", "3", "--output_dir", str(tmp_path / "out")])
    store = Store.existing(tmp_path / "out")
    assert list(store.results()) == ["Quadratic"]
    assert len(store.results()["Quadratic"]) == 8, "the learned rule and seven hand-made ones"
    assert store.settings["targets"]["Quadratic"]["data"]["init_args"]["dim"] == 5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--problems", "1"], "an interval needs at least 2 problems, got 1"),
        (["--ckpt_path", "nowhere"], "nowhere is neither a file nor a pretrained rule"),
        (["--torch_optimizers", "Adem"], "torch.optim has no optimizer 'Adem'"),
        (["--torch_optimizers", "LBFGS"], "needs more than one dense gradient"),
        (["--torch_optimizers", "SGD", "--torch_arguments", "{SGD: {beta: 1}}"], "torch.optim.SGD cannot be used"),
        (["--torch_optimizers", "SGD", "--torch_arguments", "{SGD: {lr: 1}}"], "lr is no argument here"),
        (["--torch_arguments", "{Adamw: {weight_decay: 0.5}}"], "Adamw is not among the --torch_optimizers"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        main(["compare", "--config", written(tmp_path), "--output_dir", str(out), *arguments])
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rates": []}, "--learning_rates must not be empty"),
        ({"horizons": []}, "--horizons must not be empty"),
        ({"horizons": [1, 3], "targets": {"q": TARGET, "q x3": TARGET}}, "two targets are called 'q x3'"),
        ({"targets": {}}, "give targets in a --config, or a --ckpt_path"),
    ],
)
def test_mistakes_in_a_file_get_one_sentence(changes: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        main(["compare", "--config", written(tmp_path, **changes), "--output_dir", str(tmp_path / "out")])


@pytest.mark.parametrize(("option", "value"), [("learning_rates", "-1"), ("horizons", "0"), ("problems", "x")])
def test_numbers_that_are_none_end_with_status_2(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--config", written(tmp_path), f"--{option}", value])
    assert ended.value.code == 2
    assert re.fullmatch(rf"l2l: error: .*{option}.*\n", capsys.readouterr().err)


def test_rates_that_all_diverge_are_followed_downwards_and_what_still_diverges_is_drawn(tmp_path: Path) -> None:
    out, sgd = tmp_path / "out", [{"class_path": "SGD"}]
    main(["compare", "--config", written(tmp_path, rules=sgd, learning_rates=[1.0, 10.0]), "--output_dir", str(out)])
    assert json.loads((out / "summary.json").read_text())["targets"]["small"]["contenders"]["SGD"]["diverged"] == 0
    hopeless = written(tmp_path, rules=sgd, torch_optimizers=[], torch_arguments={}, learning_rates=[1e30, 1e31])
    main(["compare", "--config", hopeless, "--steps", "100", "--output_dir", str(tmp_path / "hopeless")])
    text = (tmp_path / "hopeless" / "summary.json").read_text()
    assert "Infinity" not in text
    target = json.loads(text)["targets"]["small"]
    assert (target["target_loss"], target["contenders"]["SGD"]["steps_to_target"]) == (None, None)


def test_names_are_kept_apart(run_file: Path, tmp_path: Path) -> None:
    targets = {"a b": TARGET, "a/b": {**TARGET, "optimizee": "SumOfSquares", "data": FUNCTION}, "..": TARGET}
    out = tmp_path / "out"
    main(["compare", "--config", written(tmp_path, targets=targets), "--output_dir", str(out)])
    starts = {name: results["SGD"].curve[0].mean() for name, results in Store.existing(out).results().items()}
    assert starts["a b"] == starts[".."] != starts["a/b"]
    assert len(list((out / "results").iterdir())) == 3
    rule_file.export(run_file, tmp_path / "SGD.safetensors")
    with pytest.raises(SystemExit, match="SGD is both a learned and a hand-made rule"):
        main(["compare", "--config", written(tmp_path), "--ckpt_path", str(tmp_path / "SGD.safetensors")])


def test_a_folder_without_results_takes_a_corrected_configuration(tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = {**TARGET, "optimizee": {"class_path": "Quadratic", "init_args": {"dim": 4}}}
    with pytest.raises(SystemExit, match="cannot be evaluated"):
        main(["compare", "--config", written(tmp_path, targets={"small": wrong}), "--output_dir", str(out)])
    main(["compare", "--config", written(tmp_path), "--output_dir", str(out)])
    assert (out / "report.html").is_file()


def test_horizons_are_factors_on_whole_windows(tmp_path: Path) -> None:
    data = {**TARGET["data"], "init_args": {**TARGET["data"]["init_args"], "steps": 8}}
    out = tmp_path / "out"
    config = written(tmp_path, targets={"q": {**TARGET, "data": data}})
    main(["compare", "--config", config, "--horizons", "1", "3", "--output_dir", str(out)])
    lengths = {name: len(results["SGD"].curve) - 1 for name, results in Store.existing(out).results().items()}
    assert lengths == {"q": 10, "q x3": 30}


def test_other_folders_are_left_alone(compared: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    config = written(tmp_path)
    for folder, sentence in ((tmp_path, "is no comparison; give a new folder"), (compared, "with other settings")):
        with pytest.raises(SystemExit, match=sentence):
            main(["compare", "--config", config, "--output_dir", str(folder)])
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(SystemExit, match="holds no comparison"):
        main(["plot", str(tmp_path)])
