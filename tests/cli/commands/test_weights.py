"""``l2l weights``: the learned weights of averages of Adams."""

from pathlib import Path

import pytest
import small
import torch

from l2l_lightning.cli.main import main
from l2l_lightning.rules import LinearAverage, MultiscaleAdam, SoftmaxMLP

PAIRS = [[0.9, 0.999], [0.5, 0.555]]


def saved(folder: Path, name: str, rule: MultiscaleAdam) -> str:
    """A training checkpoint of one window."""
    trainer = small.trainer(folder, max_steps=1, limit_val_batches=0)
    trainer.fit(small.module(rule=rule), datamodule=small.data())
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    return str(folder / f"{name}.ckpt")


def test_one_row_an_adam_and_one_column_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    two, one = MultiscaleAdam(LinearAverage("absolute"), PAIRS), MultiscaleAdam(LinearAverage("none"), PAIRS[:1])
    paths = [saved(tmp_path, "two", two), saved(tmp_path, "one", one)]
    main(["weights", "--ckpt_path", *paths])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[-4:]]
    assert rows[0] == ["", "two", "one"]
    assert [row[0] for row in rows[2:]] == ["Adam 0.9/0.999", "Adam 0.5/0.555"]
    assert rows[3][2] == "", "an Adam that the rule does not average has no weight"
    weights = torch.tensor([float(row[1]) for row in rows[2:]])
    torch.testing.assert_close(weights, two.head.weights.detach(), atol=1e-5, rtol=0)
    assert float(rows[2][2]) == pytest.approx(float(one.head.weights), abs=1e-5)


def test_rules_without_such_weights_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "softmax", MultiscaleAdam(SoftmaxMLP(), PAIRS))
    with pytest.raises(SystemExit, match="needs a MultiscaleAdam with a LinearAverage, but softmax is another rule"):
        main(["weights", "--ckpt_path", path])
