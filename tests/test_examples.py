"""The examples run in a short form: the two trainings, a sweep by two processes at once, a job array's command line."""

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import processes
import pytest
import small

from l2l_lightning.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = ["--trainer.max_epochs", "1", "--data.init_args.windows_per_epoch", "3", "--trainer.accelerator", "cpu"]


def sweep(folder: Path, said: Path, words: list[str]) -> None:
    """The example as a process of its own runs it."""
    os.chdir(folder)
    with said.open("w") as file, contextlib.redirect_stdout(file):
        sys.argv = ["optuna_sweep.py", *words, *SHORT]
        runpy.run_path(str(EXAMPLES / "optuna_sweep.py"), run_name="__main__")


def start(folder: Path, said: str, *words: str) -> processes.ForkServerProcess:
    options = ["--config", str(small.CONFIG), "--seeds", "1", *words]
    process = processes.FORKS.Process(target=sweep, args=(folder, folder / said, options), daemon=True)
    process.start()
    return process


@pytest.mark.parametrize("example", ["from_scratch", "with_the_package"])
def test_training_improves_the_learned_optimizer(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 of the 400 windows; the problems start at a mean loss of 10, the expected ||y||^2."""
    monkeypatch.chdir(tmp_path)
    run = runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"]
    (untrained, _), (trained, adam) = run(windows=1), run(windows=40)
    assert 0 < adam < 1
    assert trained < 0.2 * untrained
    assert trained < 2
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_from_scratch_is_short_and_needs_torch_alone() -> None:
    text = (EXAMPLES / "from_scratch.py").read_text()
    assert len(text.splitlines()) <= 60
    assert set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) == {"torch"}
    assert len((EXAMPLES / "with_the_package.py").read_text().splitlines()) < len(text.splitlines())


def test_two_processes_work_on_one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may be at their last trial at once, so there may be one more than asked for."""
    storage = f"sqlite:///{tmp_path / 'sweep.db'}"
    for process in [start(tmp_path, said, "--trials", "2") for said in ("first", "second")]:
        process.join(200)
        assert processes.status(process) == 0
    trials = optuna.load_study(study_name="sweep", storage=storage).trials
    assert 2 <= len(trials) <= 3
    assert all(trial.state == optuna.trial.TrialState.COMPLETE and 0 < trial.value < 100 for trial in trials)
    assert len(list((tmp_path / "logs").glob("*/version_*/checkpoints/best.ckpt"))) == len(trials)

    best = min(trial.value for trial in trials)
    printed = (tmp_path / "first").read_text()
    assert re.search(r"best of \d trials: mean loss ", printed)
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(printed.strip().splitlines()[-1])
    assert program == "l2l"
    main(words)
    again = (tmp_path / "logs/quadratic_smoke" / f"version_{len(trials)}" / "validation.json").read_text()
    assert f"{best:.6g}"[:6] in again, "the printed command is the best trial once more"


def test_trials_that_cannot_run_are_pruned(tmp_path: Path) -> None:
    """Here none can, and the sweep says that there is no best one."""
    process = start(tmp_path, "said", "--trials", "2", "--model.max_skipped_steps", "0")
    process.join(200)
    assert processes.status(process) == 1
    trials = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'sweep.db'}").trials
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.PRUNED] * 2


def test_the_job_array_is_a_shell_script_and_its_command_line_parses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    script = EXAMPLES / "slurm_array.sh"
    subprocess.run(["bash", "-n", script], check=True)
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    job = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_JOB_ID": "12", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", script, small.CONFIG], env=job, capture_output=True, text=True, check=True)
    program, *words = done.stdout.splitlines()
    assert program == "l2l"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    assert ended.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "default_root_dir: logs/array_12/seed_7" in printed
    assert "seed_everything: 7" in printed
