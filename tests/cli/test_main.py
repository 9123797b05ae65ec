"""The command line as a user meets it: runs and their folders, comparisons, plug-ins, mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import small
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from l2l_lightning.cli.main import main
from l2l_lightning.evaluation.compare import LEARNED
from l2l_lightning.files import checkpoint

CONFIGS = small.CONFIG.parent


def test_a_run_holds_its_configuration_checkpoints_events_and_report(run: Path) -> None:
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    configuration = yaml.safe_load((run / "config.yaml").read_text())
    assert configuration["model"]["unroll"] == 5
    assert configuration["name"] == "quadratic_smoke"
    assert (run / "validation.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((run / "validation.json").read_text())
    assert set(report["contenders"]) == {LEARNED, "Nesterov", "Adam"}
    assert (run / "validation.md").read_text().count("\n") == 5


def test_tensorboard_reads_the_promised_tags(run: Path) -> None:
    events = EventAccumulator(str(run)).Reload()
    assert {
        "train/meta_loss",
        "train/grad_norm",
        "train/resets",
        "train/divergences",
        "train/skipped_steps",
        "train/inner_steps_per_second",
        "val/final_loss",
        "val/mean_loss",
        "val/vs_best_baseline",
    } <= set(events.Tags()["scalars"])
    assert any(tag.startswith("train/inner_loss/age_") for tag in events.Tags()["scalars"])


def test_contenders_overlay_in_one_chart_of_tensorboard(run: Path) -> None:
    curves = {}
    for contender in (LEARNED, "Nesterov", "Adam"):
        events = EventAccumulator(str(run / "curves" / contender)).Reload()
        assert events.Tags()["scalars"] == ["validation/loss"]
        curves[contender] = events.Scalars("validation/loss")
        assert [event.step for event in curves[contender]] == list(range(21)), "the newest curve hides older ones"
    assert len({events[0].value for events in curves.values()}) == 1, "all start from the same point"
    last = EventAccumulator(str(run)).Reload().Scalars("val/final_loss")[-1].value
    assert curves[LEARNED][-1].value == pytest.approx(last)


def test_the_checkpoint_holds_tensors_and_plain_values_and_says_which_rule_it_is(run: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    rule = content[checkpoint.KEY]["rule"]
    assert rule["class_path"].endswith(".CoordinatewiseLSTM")
    assert rule["init_args"]["hidden_size"] == 8
    assert rule["init_args"]["preprocessing"]["init_args"] == {"p": 10.0}
    assert all(name.startswith("rule.") for name in content["state_dict"])


def test_the_configuration_says_how_many_threads_torch_uses(runs: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            small.l2l("fit", tmp_path, "--num_threads", str(threads), "--trainer.max_epochs", "0")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_run_without_a_logger_leaves_nothing_in_the_working_directory(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    best = str(run / "checkpoints" / "best.ckpt")
    main(["validate", "--config", str(small.CONFIG), "--ckpt_path", best, "--trainer.logger", "false"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_trained_checkpoint_is_compared_beside_its_run_and_nothing_is_overwritten(
    runs: Path, run: Path, command: str, capsys: pytest.CaptureFixture
) -> None:
    stage = {"validate": "validation", "test": "test"}[command]
    for version in range(2):
        small.l2l(command, runs, "--ckpt_path", "best")
        folder = run / command / f"version_{version}"
        assert (folder / f"{stage}.png").is_file()
        assert str(folder / f"{stage}.png") in capsys.readouterr().out
    reports = [json.loads((run / command / f"version_{version}" / f"{stage}.json").read_text()) for version in range(2)]
    assert reports[0] == reports[1]


def test_validate_uses_the_checkpoint_s_weights(runs: Path, run: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    untrained = torch.load(best, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for weight in untrained["state_dict"].values():
        weight.normal_(generator=generator)
    torch.save(untrained, tmp_path / "untrained.ckpt")
    small.l2l("validate", tmp_path, "--ckpt_path", str(tmp_path / "untrained.ckpt"))
    (report,) = tmp_path.rglob("validation.json")
    found = json.loads(report.read_text())["contenders"]
    trained = json.loads((run / "validation.json").read_text())["contenders"]
    assert found["Adam"] == trained["Adam"]
    assert found[LEARNED] != trained[LEARNED]


def test_a_saved_configuration_runs_again(run: Path, tmp_path: Path) -> None:
    small.l2l("fit", tmp_path, "--trainer.max_epochs", "1", config=run / "config.yaml")
    assert (tmp_path / "quadratic_smoke" / "version_0" / "checkpoints" / "last.ckpt").is_file()


PLUG_IN = """
import torch
from torch import nn

from l2l_lightning.data import ProblemDataModule
from l2l_lightning.optimizees import OptimizeeModule
from l2l_lightning.rules import UpdateRule


class Valley(OptimizeeModule):
    def __init__(self, steepness: float = 10.0):
        super().__init__()
        self.steepness = steepness
        self.x = nn.Parameter(torch.zeros(()))
        self.y = nn.Parameter(torch.zeros(2))

    def reset_parameters(self, generator):
        nn.init.normal_(self.x, generator=generator)
        nn.init.normal_(self.y, generator=generator)

    def forward(self, data):
        return self.steepness * (self.x - data["target"]).square() + self.y.square().sum()


class Targets(ProblemDataModule):
    def draw(self, generator, problems):
        return {"target": torch.randn(problems, generator=generator)}, {}


class LearnedStep(UpdateRule):
    def __init__(self, start: float = 0.001):
        super().__init__()
        self.start = start
        self.rate = nn.Parameter(torch.tensor(start))

    def init_state(self, theta, layout, generator=None):
        return {}

    def forward(self, inputs, state):
        return -self.rate * inputs.grad, state
"""


def test_plug_ins_from_the_user_s_own_folder_need_no_change_here(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUG_IN)
    (tmp_path / "mine.yaml").write_text(
        """
model:
  unroll: 5
  rule: {class_path: mine.LearnedStep, init_args: {start: 0.002}}
  optimizee: {class_path: mine.Valley}
  restarts: {horizon: {class_path: FixedHorizon, init_args: {steps: 10}}}
  optimizer: {class_path: Adam, init_args: {lr: 0.01}}
data: {class_path: mine.Targets, init_args: {problems: 4, windows_per_epoch: 8, steps: 10}}
trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}
"""
    )
    command = [Path(sys.executable).parent / "l2l", "fit", "--config", "mine.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "logs" / "mine" / "version_0"
    assert checkpoint.read(run / "checkpoints" / "last.ckpt")[checkpoint.KEY]["rule"] == {
        "class_path": "mine.LearnedStep",
        "init_args": {"start": 0.002},
    }


@pytest.mark.parametrize(
    "config",
    [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.parent.name != "compare"],  # see test_docs.py
    ids=lambda path: path.stem,
)
def test_every_configuration_parses_and_prints(config: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        small.l2l("fit", Path("."), "--print_config", config=config)
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["rule"]["class_path"]


def test_quadratic_rnn_trains(tmp_path: Path) -> None:
    limits = ("--trainer.max_epochs", "1", "--data.init_args.windows_per_epoch", "3")
    small.l2l("fit", tmp_path, *limits, config=CONFIGS / "quadratic_rnn.yaml")
    assert (tmp_path / "quadratic_rnn" / "version_0" / "validation.json").is_file()


def test_mnist_trains_and_validates_on_real_images(tmp_path: Path, mnist_root: Path) -> None:
    small_mnist = {
        "data": {
            "class_path": "MNISTDataModule",
            "init_args": {
                "root": str(mnist_root),
                "download": False,
                "windows_per_epoch": 3,
                "steps": 20,
                "validation_problems": 2,
                "test_problems": 2,
                "tuning_problems": 2,
            },
        },
        "model": {"baselines": {"rules": ["Adam"], "learning_rates": [0.01, 0.03]}},
        "trainer": {"max_epochs": 1},
    }
    extra = tmp_path / "extra.yaml"
    extra.write_text(yaml.safe_dump(small_mnist))
    arguments = ("--config", str(extra), "--name", "mnist")
    small.l2l("fit", tmp_path, *arguments, config=CONFIGS / "mnist_mlp_lstm.yaml")
    small.l2l("test", tmp_path, *arguments, "--ckpt_path", "last", config=CONFIGS / "mnist_mlp_lstm.yaml")
    (report,) = tmp_path.glob("mnist/version_0/test/version_0/test.json")
    adam = json.loads(report.read_text())["contenders"]["Adam"]
    assert adam["final_loss"]["mean"] < 2.0, "20 steps of Adam learn something of real digits"
    assert adam["metrics"]["accuracy"]["mean"] > 0.3
    events = EventAccumulator(str(tmp_path / "mnist/version_0")).Reload()
    assert "val/accuracy" in events.Tags()["scalars"]


def limited(folder: Path, **data: object) -> Path:
    """A further configuration that makes an image training short."""
    limits = {"download": False, "windows_per_epoch": 2, "steps": 10, "batch_size": 8, **data}
    limits |= {"validation_problems": 2, "test_problems": 2, "tuning_problems": 1}
    baselines = {"rules": ["Adam"], "learning_rates": [0.01]}
    path = folder / "limited.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": {"unroll": 5, "baselines": {"class_path": "Baselines", "init_args": baselines}},
                "data": {"init_args": limits},
                "trainer": {"max_epochs": 1},
            }
        )
    )
    return path


def test_one_lstm_for_convolutions_and_another_for_the_rest_on_real_cifar(tmp_path: Path, cifar_root: Path) -> None:
    config = CONFIGS / "cifar_convnet_lstm.yaml"
    arguments = ["--config", str(limited(tmp_path, root=str(cifar_root), check_md5=False, validation_images=500))]
    arguments += ["--name", "cifar"]
    small.l2l("fit", tmp_path, *arguments, config=config)
    small.l2l("validate", tmp_path, *arguments, "--ckpt_path", "last", config=config)
    phi = checkpoint.read(tmp_path / "cifar/version_0/checkpoints/last.ckpt")["state_dict"]
    assert {name.split(".")[2] for name in phi} == {"convolution", "dense"}
    assert all(phi[f"rule.rules.{label}.head_weight"].any() for label in ("convolution", "dense"))
    unmatched = ("--model.rule.init_args.routes", '[{"rule": "convolution", "module": "Conv2d"}]')
    with pytest.raises(SystemExit, match=r"no route matches the parameter 'layers.1.weight' of a BatchNorm2d"):
        small.l2l("fit", tmp_path, *arguments, *unmatched, config=config)


NETWORK = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x):
        return self.body(x)
"""


def test_a_network_of_the_user_s_own_needs_no_subclass(tmp_path: Path, mnist_root: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "net.yaml").write_text(
        """
model:
  rule: CoordinatewiseLSTM
  optimizee:
    class_path: FromModule
    init_args:
      module: {class_path: net.Net, init_args: {width: 3}}
      loss: torch.nn.functional.cross_entropy
data: {class_path: ImageDataModule, init_args: {dataset: MNIST}}
trainer: {accelerator: cpu, enable_progress_bar: false}
"""
    )
    command = [Path(sys.executable).parent / "l2l", "fit", "--config", "net.yaml"]
    command += ["--config", limited(tmp_path, root=str(mnist_root)), "--name", "net"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inner = checkpoint.read(tmp_path / "logs/net/version_0/checkpoints/last.ckpt")[checkpoint.KEY]["processes"][0][
        "inner"
    ]
    assert inner["theta"].shape == (1, 784 * 3 + 3 + 3 * 10 + 10)
