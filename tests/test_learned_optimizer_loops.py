"""LearnedOptimizer in place of Adam in the loops that people have."""

import os
import warnings

import lightning as L
import pytest
import small
import torch
from scenes import awake
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from l2l_lightning import LearnedOptimizer
from l2l_lightning.rules import Adam, CoordinatewiseLSTM, KTimesteps

RATE = 0.02
OPTIMIZERS = {
    "ours": lambda params: LearnedOptimizer(params, Adam(RATE)),
    "theirs": lambda params: torch.optim.Adam(params, RATE),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(count=8, size=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, size, 3, generator=generator)
    return list(zip(x, x.prod(-1, keepdim=True), strict=True))


def loss_of(model, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def flat(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


# Loops written by hand


def plain(model, optimizer):
    for batch in batches():
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()


def compiled(model, optimizer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        plain(torch.compile(model, backend="eager"), optimizer)


def clipped(model, optimizer):
    for batch in batches():
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.01) > 0.01
        optimizer.step()


def accumulated(model, optimizer):
    for place, batch in enumerate(batches()):
        loss_of(model, batch).backward()
        if place % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)


def closures(model, optimizer):
    for batch in batches():

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        optimizer.step(closure)


def scaled(model, optimizer):
    """Mixed precision with gradients that overflow once: the scaler skips that step, so nothing is counted here."""
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for place, batch in enumerate(batches()):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch) * (torch.inf if place == 3 else 1)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 128.0
    assert getattr(optimizer, "skipped", 0) == 0


@pytest.mark.parametrize("loop", [plain, compiled, clipped, accumulated, closures, scaled])
def test_a_loop_trains_as_with_torch_s_adam(loop):
    models = {}
    for name, make in OPTIMIZERS.items():
        models[name] = network()
        loop(models[name], make(models[name].parameters()))
    torch.testing.assert_close(flat(models["ours"]), flat(models["theirs"]))
    assert (flat(models["ours"]) - flat(network())).abs().max() > 0.02


# Lightning


class Regression(L.LightningModule):
    def __init__(self, make, automatic=True):
        super().__init__()
        self.model, self.make, self.automatic_optimization = network(), make, automatic

    def configure_optimizers(self):
        optimizer = self.make(self.model.named_parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)]

    def training_step(self, batch, batch_idx):
        loss = loss_of(self.model, batch)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def on_train_epoch_end(self):
        if not self.automatic_optimization:
            self.lr_schedulers().step()


def fit(folder, module, epochs, resume=None, **settings):
    data = torch.utils.data.DataLoader(batches(), batch_size=None)
    trainer = small.trainer(folder, max_epochs=epochs, **settings)
    trainer.fit(module, data, ckpt_path=resume)
    return trainer


@pytest.fixture(autouse=True)
def quiet():
    """Lightning's advice on workers is not ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        yield


@pytest.mark.parametrize(
    ("automatic", "settings"),
    [(True, {}), (True, {"gradient_clip_val": 0.01, "accumulate_grad_batches": 2}), (False, {})],
    ids=["automatic", "clipping and accumulation", "manual"],
)
def test_lightning_trains_as_with_torch_s_adam(tmp_path, automatic, settings):
    models = {name: Regression(make, automatic) for name, make in OPTIMIZERS.items()}
    for model in models.values():
        trainer = fit(tmp_path, model, 3, **settings)
        assert trainer.global_step == 24 // settings.get("accumulate_grad_batches", 1)
    torch.testing.assert_close(flat(models["ours"]), flat(models["theirs"]))
    assert (flat(models["ours"]) - flat(network())).abs().max() > 0.02


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("automatic", [True, False])
def test_lightning_resumes_bit_for_bit(tmp_path, automatic, precision):
    rule = awake(CoordinatewiseLSTM(hidden_size=4, output_scale=0.1))
    whole, half, resumed = (Regression(lambda p: LearnedOptimizer(p, rule), automatic) for _ in range(3))
    fit(tmp_path, whole, 4, precision=precision)
    fit(tmp_path, half, 2, precision=precision).save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    trainer = fit(tmp_path, resumed, 4, tmp_path / "half.ckpt", precision=precision)
    assert torch.equal(flat(resumed), flat(whole))
    assert not torch.equal(flat(half), flat(whole))
    leaves = [leaf for state in trainer.optimizers[0].state.values() for leaf in state.values()]
    assert {leaf.dtype for leaf in leaves} == {torch.float32, torch.int64}


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_it_is_an_outer_optimizer_of_meta_training(tmp_path, precision):
    phi = []
    for optimizer in (lambda p: LearnedOptimizer(p, Adam(1e-3)), lambda p: torch.optim.Adam(p, 1e-3)):
        module = small.module(optimizer=optimizer)
        small.trainer(tmp_path, precision=precision, limit_val_batches=0).fit(module, datamodule=small.data())
        phi.append(flat(module.rule))
    torch.testing.assert_close(*phi)
    assert not torch.equal(phi[0], flat(small.module().rule))


# Several processes, several devices


def _replica(rank, folder, count):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    model = DistributedDataParallel(network())
    optimizer = LearnedOptimizer(model.parameters(), KTimesteps(eta_min=0.1))
    for x, y in batches():
        optimizer.zero_grad()
        loss_of(model, (x.chunk(count)[rank], y.chunk(count)[rank])).backward()
        optimizer.step()
    torch.save(flat(model), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_stay_together_and_walk_as_one_does(tmp_path):
    method = "spawn" if torch.cuda.is_initialized() else "fork"  # spawned processes import everything anew
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        torch.multiprocessing.start_processes(
            _replica, (tmp_path / str(count), count), nprocs=count, start_method=method
        )
    (alone,), both = ([torch.load(file) for file in sorted((tmp_path / name).glob("*.pt"))] for name in "12")
    assert torch.equal(*both)
    torch.testing.assert_close(both[0], alone, rtol=1e-4, atol=1e-5)
    assert (alone - flat(network())).abs().max() > 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_parameters_lie_on_a_gpu_and_beside_it(tmp_path):
    """A saved state goes on where its parameters are."""
    rule, paths = awake(CoordinatewiseLSTM(hidden_size=4, output_scale=0.1)), []
    for second in ("cpu", "cuda"):
        model = network()
        model[2].to(second)
        optimizer = LearnedOptimizer(model.parameters(), rule)
        for place, (x, y) in enumerate(batches()):
            if place == 4:
                torch.save(optimizer.state_dict(), tmp_path / "state.pt")
                optimizer = LearnedOptimizer(model.parameters(), rule)
                optimizer.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
            optimizer.zero_grad()
            answer = model[2](model[:2](x).to(second))
            nn.functional.mse_loss(answer, y.to(second)).backward()
            optimizer.step()
        for param in model.parameters():
            assert {leaf.device for name, leaf in optimizer.state[param].items() if name != "step"} == {param.device}
        paths.append(torch.cat([param.detach().cpu().flatten() for param in model.parameters()]))
    torch.testing.assert_close(*paths, rtol=1e-3, atol=1e-4)
