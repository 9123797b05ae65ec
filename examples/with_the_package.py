"""The experiment of from_scratch.py with l2l_lightning, whose comparison tunes Adam on problems of its own."""

import lightning as L
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from l2l_lightning import MetaOptimizerModule
from l2l_lightning.core.horizon import FixedHorizon, Restarts
from l2l_lightning.data import QuadraticDataModule
from l2l_lightning.evaluation.compare import Baselines
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import Adam, CoordinatewiseLSTM, Identity


def main(windows: int = 400) -> tuple[float, float]:
    """Meta-train; the final losses of the learned optimizer and of the best Adam on fresh problems."""
    L.seed_everything(0)
    module = MetaOptimizerModule(
        rule=CoordinatewiseLSTM(layers=1, output_scale=0.1, preprocessing=Identity()),
        optimizee=Quadratic(dim=10),
        restarts=Restarts(FixedHorizon(100)),
        baselines=Baselines([Adam()], [0.01, 0.03, 0.1, 0.3, 1.0]),
        optimizer=lambda phi: torch.optim.Adam(phi, lr=0.01),
        lr_scheduler=lambda outer: CosineAnnealingLR(outer, windows),
    )
    data = QuadraticDataModule(dim=10, problems=32, windows_per_epoch=windows, steps=100, test_problems=256)
    trainer = L.Trainer(
        max_epochs=1,
        gradient_clip_val=0.03,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, data)
    trainer.test(module, data)
    learned, adam = (module.results[name].curve[-1].mean().item() for name in ("learned", "Adam"))
    print(f"mean loss after 100 steps on fresh problems: learned {learned:.3f}, tuned Adam {adam:.3f}")
    return learned, adam


if __name__ == "__main__":
    main()
