"""What LearnedOptimizer saves and loads: its state, copies of itself, and rules from files."""

import copy
import pickle

import pytest
import small
import torch
from torch import nn
from walks import LEARNED, ROUTES, assert_equal, assert_same_state, flat, parameters, snapshot, walk

from l2l_lightning import LearnedOptimizer
from l2l_lightning.core.errors import InputError
from l2l_lightning.files import rule_file
from l2l_lightning.rules import (
    SGD,
    Adam,
    KTimesteps,
    Momentum,
    PartitionedRule,
)

# Saved states


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "make", [Adam, LEARNED["lstm"], LEARNED["timesteps"], lambda: KTimesteps(eta_min=0.01, noise=0.1)]
)
def test_a_saved_state_goes_on_exactly(tmp_path, make, dtype):
    """Also where a parameter had no gradient yet, a leaf holds integers, and the rate was changed on the way."""
    absent = {(t, 1) for t in range(4)}
    rule, whole = make(), parameters(dtype=dtype)
    optimizer = LearnedOptimizer(whole, rule)
    walk(optimizer, whole, range(3), absent)
    optimizer.param_groups[0]["lr"] = 0.5
    torch.save([optimizer.state_dict(), whole], tmp_path / "saved.pt")
    walk(optimizer, whole, range(3, 6), absent)

    with torch.serialization.safe_globals([nn.Parameter]):
        state, parts = torch.load(tmp_path / "saved.pt", weights_only=True)
    resumed = LearnedOptimizer(parts, rule)
    resumed.load_state_dict(state)
    walk(resumed, parts, range(3, 6), absent)
    assert_equal(parts, whole)
    assert_same_state(snapshot(resumed), snapshot(optimizer))
    found = {leaf.dtype for leaves in resumed.state.values() for leaf in leaves.values()}
    assert found == {torch.int64, torch.float64 if dtype == torch.float64 else torch.float32}


def test_a_loaded_state_is_a_copy_of_its_own():
    params, others = parameters(), parameters()
    first, second = LearnedOptimizer(params, Momentum()), LearnedOptimizer(others, Momentum())
    walk(first, params)
    before = snapshot(first)
    second.load_state_dict(first.state_dict())
    walk(second, others)
    assert_same_state(snapshot(first), before)


@pytest.mark.parametrize(
    ("saved", "loaded"), [(torch.float64, torch.float32), (torch.bfloat16, torch.float64), (torch.float64, torch.half)]
)
def test_a_state_serves_parameters_of_another_precision(saved, loaded):
    rule, params = LEARNED["lstm"](), parameters(dtype=saved)
    optimizer = LearnedOptimizer(params, rule)
    walk(optimizer, params)
    others = [nn.Parameter(param.data.to(loaded)) for param in params]
    resumed = LearnedOptimizer(others, rule)
    resumed.load_state_dict(optimizer.state_dict())
    walk(optimizer, params, [6])
    walk(resumed, others, [6])
    torch.testing.assert_close(flat(others).double(), flat(params).double(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        (lambda p: LearnedOptimizer(p, SGD()), r"\(class: SGD against Adam\)"),
        (lambda p: LearnedOptimizer(p, Adam(0.1)), r"\(lr: 0.1 against 0.001\)"),
        (torch.optim.Adam, "another rule"),
    ],
)
def test_a_state_of_another_rule_is_refused_in_one_sentence(saved, sentence):
    params = parameters((3,))
    optimizer = LearnedOptimizer(params, Adam())
    walk(optimizer, params)
    before = snapshot(optimizer)
    with pytest.raises(InputError, match=sentence) as caught:
        optimizer.load_state_dict(saved(params).state_dict())
    assert str(caught.value).startswith("The state of group 0 belongs to another rule")
    assert "\n" not in str(caught.value)
    assert_same_state(snapshot(optimizer), before)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda things: pickle.loads(pickle.dumps(things))], ids=["deepcopy", "pickle"]
)
def test_a_copy_walks_on_like_the_original(duplicate):
    params = parameters()
    named = [(f"{place}.bias" if place % 2 else f"{place}.weight", param) for place, param in enumerate(params)]
    rule = PartitionedRule({"bias": Adam(), "rest": LEARNED["lstm"]()}, ROUTES)
    optimizer = LearnedOptimizer(named, rule, chunk_size=5)
    walk(optimizer, params)
    others, other = duplicate((params, optimizer))
    for members, mine in ((params, optimizer), (others, other)):
        walk(mine, members, range(6, 9))
        mine.add_param_group({"params": [("late.bias", nn.Parameter(torch.ones(2)))]})
    assert_equal(others, params)
    assert other.chunk_size == 5
    assert all(left is not right for left, right in zip(others, params, strict=True))


# Where rules come from


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A rule that was meta-trained for seconds: itself, its checkpoint, and the exported file."""
    folder = tmp_path_factory.mktemp("trained")
    module, trainer = small.module(), small.trainer(folder, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, datamodule=small.data())
    trainer.save_checkpoint(folder / "rule.ckpt")
    rule_file.export(folder / "rule.ckpt", folder / "rule.safetensors")
    return module.rule, folder


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_rule_may_be_a_checkpoint_or_an_exported_file(trained, suffix, kind):
    rule, folder = trained
    ours, expected = parameters(), parameters()
    optimizers = LearnedOptimizer(ours, kind(folder / f"rule.{suffix}")), LearnedOptimizer(expected, rule)
    for optimizer, params in zip(optimizers, (ours, expected), strict=True):
        walk(optimizer, params)
    assert_equal(ours, expected)
    assert not torch.equal(flat(ours), flat(parameters()))
    optimizers[1].load_state_dict(optimizers[0].state_dict())  # a file's rule is the same rule


def test_a_file_is_read_once_so_that_it_may_change_or_go(trained, tmp_path):
    rule, folder = trained
    file = tmp_path / "rule.safetensors"
    file.write_bytes((folder / "rule.safetensors").read_bytes())
    ours, expected = parameters((3,), (4,)), parameters((3,), (4,))
    optimizer = LearnedOptimizer(ours[:1], file)
    file.unlink()
    optimizer.add_param_group({"params": ours[1:]})
    walk(optimizer, ours)
    walk(LearnedOptimizer(expected, rule), expected)
    torch.testing.assert_close(flat(ours), flat(expected))


def test_an_unknown_name_is_told_in_one_sentence():
    with pytest.raises(InputError, match=r"^lstm-of-nobody is neither a file nor a pretrained rule; ") as caught:
        LearnedOptimizer(parameters((2,)), "lstm-of-nobody")
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in rule_file.pretrained_names())
