"""Training losses by the age of the problems."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from l2l_lightning.training.processes import concatenate


class LossesByAge(Callback):
    """Logs ``train/inner_loss/age_A``, the mean loss after windows that started at ages of A inner steps or more."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            age, loss = concatenate(outputs["age"]), concatenate(outputs["curve"][-1])
            pl_module.log_dict(losses_by_age(age, loss, pl_module.unroll))  # type: ignore[arg-type]


def losses_by_age(age: Tensor, loss: Tensor, unroll: int) -> dict[str, Tensor]:
    """Means of the finite losses (B,) in groups of ages (B,) that start at 0, U, 2U, 4U, 8U ..."""
    windows = torch.div(age, unroll, rounding_mode="floor")  # (B,)
    groups = torch.where(windows > 0, windows.clamp_min(1).double().log2().floor().long() + 1, 0)  # (B,)
    losses = {}
    for group in groups.unique().tolist():
        members = loss[(groups == group) & torch.isfinite(loss)]
        start = 0 if group == 0 else unroll * 2 ** (group - 1)
        if len(members):
            losses[f"train/inner_loss/age_{start}"] = members.mean()
    return losses
