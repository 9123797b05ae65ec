"""Every experiment of configs/thesis in a short form: a window or two, and a comparison of some steps."""

import json
from pathlib import Path

import pytest
import small

THESIS = Path(__file__).parents[1] / "configs" / "thesis"
SHORT = ("--data.init_args.steps", "40", "--data.init_args.validation_problems", "2")
TRAINED = {"averages": "mnist_la_b", "histories": "mnist_k_momentums"}  # variants change their base in some lines
CONVOLUTIONAL = ("conv_cifar_rnn2", "conv_mnist_rnn2")
UNTRAINED = ("sum_of_squares_mng", "rosenbrock_mng", "mnist_mng")


def variants() -> list[tuple[str, str]]:
    bases = [(base, "") for base in TRAINED.values()]
    return bases + [(base, str(path)) for kind, base in TRAINED.items() for path in sorted((THESIS / kind).glob("*"))]


def contenders(report: Path) -> dict[str, dict]:
    return json.loads(report.read_text())["contenders"]


def test_no_experiment_is_left_out() -> None:
    assert {path.stem for path in THESIS.glob("*.yaml")} == {*TRAINED.values(), *CONVOLUTIONAL, *UNTRAINED}
    assert {path.name for path in THESIS.iterdir() if path.is_dir()} == set(TRAINED)


@pytest.mark.parametrize(("base", "variant"), variants(), ids=lambda value: Path(value).stem)
def test_a_rule_is_trained_and_compared(base: str, variant: str, tmp_path: Path, mnist_root: Path) -> None:
    more = ("--config", variant) if variant else ()
    sizes = ("--trainer.max_epochs", "1", "--data.init_args.windows_per_epoch", "2")
    baseline = ("--model.baselines.init_args.learning_rates", "[0.01]", "--model.baselines.init_args.rules", "[Adam]")
    data = ("--data.init_args.root", str(mnist_root))
    small.l2l("fit", tmp_path, *more, *SHORT, *sizes, *baseline, *data, config=THESIS / f"{base}.yaml")
    (report,) = tmp_path.glob("*/version_0/validation.json")
    found = contenders(report)
    assert set(found) == {"learned", "Adam"}
    assert all(contender["diverged"] == 0 for contender in found.values())
    assert list(report.parent.glob("checkpoints/best.ckpt"))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_an_average_is_trained_on_a_convolutional_network(
    name: str, tmp_path: Path, mnist_root: Path, cifar_root: Path
) -> None:
    sizes = ("--trainer.max_epochs", "1", "--data.init_args.windows_per_epoch", "1", "--model.unroll", "2")
    sizes += ("--data.init_args.steps", "2", "--data.init_args.validation_problems", "1")
    data = ("--data.init_args.root", str(mnist_root))
    if "cifar" in name:
        data = ("--data.init_args.root", str(cifar_root), "--data.init_args.check_md5", "false")
        data += ("--data.init_args.validation_images", "100")
    small.l2l("fit", tmp_path, *sizes, *data, config=THESIS / f"{name}.yaml")
    (report,) = tmp_path.glob("*/version_0/validation.json")
    assert contenders(report)["learned"]["diverged"] == 0


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_hand_made_rule_is_compared_at_its_best_rate(name: str, tmp_path: Path, mnist_root: Path) -> None:
    data = ("--data.init_args.root", str(mnist_root)) if name.startswith("mnist") else ()
    small.l2l("validate", tmp_path, *SHORT, *data, config=THESIS / f"{name}.yaml")
    (report,) = tmp_path.glob("**/validation.json")
    assert contenders(report)["learned"]["learning_rate"] > 0
