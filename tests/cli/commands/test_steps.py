"""``l2l steps`` on a trained KTimesteps: the shape of table 3.1."""

from itertools import pairwise
from pathlib import Path

import pytest
import small
import torch

from l2l_lightning.cli.main import main
from l2l_lightning.core.objective import Objective
from l2l_lightning.data import QuadraticDataModule
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import KTimesteps


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of KTimesteps(k=5) after 500 windows on quadratics."""
    folder = tmp_path_factory.mktemp("steps")
    torch.manual_seed(0)
    module = small.module(
        rule=KTimesteps(5, eta_min=1e-2),
        optimizee=Quadratic(dim=5),
        unroll=20,
        horizon=small.FixedHorizon(40),
        objective=Objective("uniform", "log"),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
    )
    sizes = {"validation_problems": 4, "tuning_problems": 4, "steps": 20, "seed": 0}
    data = QuadraticDataModule(5, problems=64, windows_per_epoch=500, **sizes)
    trainer = small.trainer(folder, max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "trained.ckpt")
    return folder / "trained.ckpt"


def test_the_step_follows_the_agreement_of_signs_and_saturates(trained: Path, capsys: pytest.CaptureFixture) -> None:
    main(["steps", "--ckpt_path", str(trained)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["g[t-4]", "g[t-3]", "g[t-2]", "g[t-1]", "g[t]", "delta"]
    rows = [[float(word) for word in line.split()] for line in lines[1:]]
    assert [row[:5].count(-1) for row in rows] == [0, 1, 2, 3, 4, 5, 0]
    assert rows[1][:5] == [1, 1, 1, 1, -1]
    deltas = [row[5] for row in rows]
    assert all(after < before for before, after in pairwise(deltas[:6]))
    assert deltas[0] > 0.95
    assert deltas[5] < -0.95
    assert all(abs(left + right) < 0.3 for left, right in zip(deltas[:2], deltas[5:3:-1], strict=True))
    assert deltas[2] > 0 > deltas[3]
    assert abs(deltas[6]) < 0.3


def test_another_rule_and_a_missing_file_get_one_sentence(tmp_path: Path) -> None:
    small.l2l("fit", tmp_path, "--trainer.max_epochs", "1")
    path = tmp_path / "quadratic_smoke" / "version_0" / "checkpoints" / "last.ckpt"
    with pytest.raises(SystemExit, match="needs a KTimesteps rule, but the checkpoint holds a CoordinatewiseLSTM"):
        main(["steps", "--ckpt_path", str(path)])
    with pytest.raises(SystemExit, match=r"there is no file nowhere\.ckpt"):
        main(["steps", "--ckpt_path", "nowhere.ckpt"])
