"""The code in README and docs runs as it stands there, and the site builds without warnings."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from l2l_lightning.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("export", "inspect", "plot")  # in seconds; a compare as well, but for these of minutes
LONG = {"configs/compare/pretrained.yaml", "lstm-cubed"}
CHECKED = ("fit", "validate", "test", "compare")  # built from their options by --print_config
NOT_OURS = (
    "git ",
    "make ",
    "tensorboard ",
    "python -m benchmarks",
    "pip ",
    "python examples/",
    "sbatch examples/",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun ",
    "srun ",
)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """Words of every shell command."""
    lines = "\n".join(blocks(page, "", "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("l2l ")]


@pytest.fixture
def workplace(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the configurations, and a trained rule where the pages have theirs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "mine.py").write_text(blocks(PAGES[0], "python")[1] + "\nclass Net(nn.Linear):\n    pass\n")
    for name in ("quadratic_lstm", "mnist_mlp_lstm"):
        shutil.copytree(run / "checkpoints", tmp_path / "logs" / name / "version_0" / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)  # test_readme.py runs the README's
def test_python_runs(page: Path, workplace: Path) -> None:
    exec("\n".join(blocks(page, "python")), {"__name__": "__main__"})


@every_page
def test_configurations_and_values_are_well_formed(page: Path) -> None:
    for text in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(text), dict)
    for text in blocks(page, "json"):
        json.loads(text)


@every_page
def test_shell_blocks_hold_commands_that_are_tested(page: Path) -> None:
    for text in blocks(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            assert not line or line.startswith(("l2l ", *NOT_OURS)), line


@every_page
def test_commands_run(page: Path, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    for text in blocks(page, "yaml"):
        name = re.match(r"# (\w+\.yaml)", text)
        if name:
            (workplace / name[1]).write_text(text)
    for _, command, *options in commands(page):
        if command in RUN or (command == "compare" and not LONG & set(options)):
            main([command, *options])
        elif command in CHECKED:
            with pytest.raises(SystemExit) as ended:
                main([command, *options, "--print_config"])
            assert ended.value.code in (0, None), options
        else:
            with pytest.raises(SystemExit):
                main([command, "--help"])
            known = capsys.readouterr().out
            further = ("--data.", "--model.", "--trainer.") if "Further options" in known else ()
            own = [option for option in options if option.startswith("--") and not option.startswith(further)]
            assert all(option in known for option in own), options


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "chunk_size" in (tmp_path / "site" / "api" / "index.html").read_text()
