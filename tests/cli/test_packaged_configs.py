"""Configurations are found by name, in a checkout and in an unpacked wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from l2l_lightning.cli import packaged_configs
from l2l_lightning.cli.main import main
from l2l_lightning.core.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SHORT = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_configuration_has_a_name() -> None:
    assert len(packaged_configs.packaged()) == len(list(CONFIGS.rglob("*.yaml"))) > 20
    assert packaged_configs.find("quadratic_lstm") == CONFIGS / "quadratic_lstm.yaml"
    assert packaged_configs.find("thesis/mnist_la_b") == CONFIGS / "thesis" / "mnist_la_b.yaml"


def test_a_file_comes_before_a_packaged_name(empty: Path) -> None:
    (empty / "quadratic_rnn").mkdir()  # a folder is not a file
    assert packaged_configs.find("quadratic_rnn") == CONFIGS / "quadratic_rnn.yaml"
    (empty / "quadratic_lstm").write_text("{}")
    assert packaged_configs.find("quadratic_lstm") == Path("quadratic_lstm")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("quadratic_lst", "there is no file quadratic_lst; did you mean quadratic_lstm"),
        ("configs/quadratic_lstm.yaml", r"did you mean quadratic_lstm"),
        ("thesis/mnist_lab", "did you mean thesis/mnist_la_b"),
        ("zzz", "there is no file zzz, and no packaged configuration has a similar name"),
    ],
)
def test_unknown_names_are_refused_with_near_matches(empty: Path, given: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^--to: .*{sentence}"):
        packaged_configs.find(given, "--to")
    with pytest.raises(SystemExit, match=f"--config: .*{sentence}"):
        main(["fit", "--config", given])


@pytest.mark.parametrize("words", [["--config", "{}"], ["--config={}"], ["-c", "{}"]], ids=" ".join)
def test_every_form_of_the_option_finds_and_checks(
    empty: Path, words: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main(["validate", *[word.format("quadratic_smoke") for word in words], "--print_config"])
    assert "windows_per_epoch: 10" in capsys.readouterr().out
    (empty / "twice.yaml").write_text("model: {unroll: 5}\nmodel: {unroll: 6}\n")
    with pytest.raises(SystemExit, match=r"twice\.yaml is not a configuration: duplicate key 'model' in line 2\.$"):
        main(["validate", *[word.format("twice.yaml") for word in words]])


def test_commands_take_packaged_names(run: Path, empty: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--config=compare/pretrained", "--print_config"])
    assert "adams-softmax" in capsys.readouterr().out
    best = str(run / "checkpoints" / "best.ckpt")
    value = ["--key", "model.unroll", "--values", "5", "--data.init_args.windows_per_epoch", "2"]
    main(["sweep", "--config=quadratic_smoke", "--output_dir", "sweep", *value, *SHORT])
    main(["transfer", "--to", "quadratic_smoke", "--output_dir", "transfer", "--ckpt_path", best, *SHORT])
    rates = ["--rates", "0.1", "--ckpt_path", best]
    main(["heatmap", "--config", "quadratic_smoke", "--output_dir", "map", *rates, *SHORT])
    assert all((empty / file).is_file() for file in ("sweep/sweep.md", "transfer/transfer.md", "map/heatmap.md"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, built from a copy of the sources so that nothing is left beside them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("l2l_lightning", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def outside(unpacked: Path, folder: Path, *words: str) -> str:
    """What Python prints when it imports the package from the unpacked wheel only."""
    environment = os.environ | {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_configuration(unpacked: Path) -> None:
    packed = unpacked / "l2l_lightning" / "configs"
    for path in CONFIGS.rglob("*.yaml"):
        assert (packed / path.relative_to(CONFIGS)).read_text() == path.read_text()


def test_an_unpacked_wheel_trains_a_packaged_configuration(unpacked: Path, tmp_path: Path) -> None:
    where = "import l2l_lightning as l; print(l.__file__, l.__version__)"
    file, version = outside(unpacked, tmp_path, "-c", where).split()
    assert Path(file).is_relative_to(unpacked)
    assert (unpacked / f"l2l_lightning-{version}.dist-info").is_dir()
    outside(unpacked, tmp_path, "-m", "l2l_lightning.cli", "fit", "--config", "quadratic_smoke", *SHORT)
    checkpoints = tmp_path / "logs" / "quadratic_smoke" / "version_0" / "checkpoints"
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in checkpoints.iterdir()}
