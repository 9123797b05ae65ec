"""Modules that know nothing of this project as optimizees."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import FromModule

IMAGES = {"image": torch.rand(2, 5, 6), "label": torch.randint(3, (2, 5))}


def network(*middle):
    return nn.Sequential(nn.Linear(6, 4), *middle, nn.ReLU(), nn.Linear(4, 3))


def test_loss_is_that_of_the_module():
    module = network()
    problems = Problems(FromModule(module))
    theta = problems.draw(2, keyed_generator(0))
    losses = problems.losses(theta, IMAGES)
    for b in range(2):
        nn.utils.vector_to_parameters(theta[b], module.parameters())
        torch.testing.assert_close(losses[b], F.cross_entropy(module(IMAGES["image"][b]), IMAGES["label"][b]))


def test_any_loss_on_any_data():
    optimizee = FromModule(nn.Linear(6, 1), F.mse_loss, input="x", target="y")
    data = {"x": torch.rand(5, 6), "y": torch.rand(5, 1)}
    torch.testing.assert_close(optimizee(data), F.mse_loss(optimizee.module(data["x"]), data["y"]))
    assert set(optimizee.metrics(data)) == {"held_out_loss"}


def test_class_labels_get_an_accuracy():
    optimizee = FromModule(nn.Linear(2, 2))
    with torch.no_grad():
        optimizee.module.weight.copy_(torch.eye(2))
        optimizee.module.bias.zero_()
    data = {"image": torch.tensor([[2.0, 1], [1, 2], [5, 1], [0, 3]]), "label": torch.tensor([0, 1, 1, 1])}
    assert optimizee.metrics(data)["accuracy"] == 0.75


def test_problems_start_from_torch_s_own_initialisation_and_the_given_generator_alone():
    optimizee = FromModule(network(nn.BatchNorm1d(4)))
    before = torch.get_rng_state()
    draws = [Problems(optimizee).draw(2, keyed_generator(key)) for key in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0][0], draws[0][1])
    weight = Problems(optimizee).layout.unflatten(draws[0])["module.0.weight"]
    assert 0.3 < weight.abs().max() <= 6**-0.5


def test_the_user_s_module_is_left_alone_and_batch_norm_keeps_no_statistics():
    module = network(nn.BatchNorm1d(4))
    optimizee = FromModule(module)
    assert module[1].running_mean is not None
    assert optimizee.module[1].running_mean is None
    before = [parameter.clone() for parameter in module.parameters()]
    optimizee.reset_parameters(keyed_generator(0))
    assert all(torch.equal(*pair) for pair in zip(before, module.parameters(), strict=True))


def test_parameters_without_an_initialisation_keep_their_values():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.scale = nn.Parameter(torch.tensor(7.0))

        def forward(self, x):
            return self.scale * self.linear(x)

    problems = Problems(FromModule(Scaled()))
    assert (problems.layout.unflatten(problems.draw(2, keyed_generator(0)))["module.scale"] == 7).all()


def test_a_network_s_own_initialisation_has_the_last_word():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

        def reset_parameters(self):
            nn.init.zeros_(self.last.weight)

        def forward(self, x):
            return self.last(self.first(x))

    problems = Problems(FromModule(Careful()))
    drawn = problems.layout.unflatten(problems.draw(2, keyed_generator(0)))
    assert not drawn["module.last.weight"].any()
    assert drawn["module.first.weight"].any()


def test_parameters_that_are_the_same_in_all_problems_are_named():
    with pytest.warns(UserWarning, match=r"all problems start from the same module.self_attn.in_proj_weight"):
        FromModule(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0))


def test_any_module_may_be_the_loss():
    data = {"image": torch.rand(5, 6), "label": torch.rand(5, 3)}
    optimizee = FromModule(nn.Linear(6, 3), nn.MSELoss(reduction="sum"))
    torch.testing.assert_close(optimizee(data), (optimizee.module(data["image"]) - data["label"]).square().sum())


def test_frozen_and_lazy_parameters_are_refused_by_name():
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"0\.weight is frozen"):
        FromModule(frozen)
    with pytest.raises(InputError, match="weight is lazy"):
        FromModule(nn.LazyLinear(3))


def test_what_cannot_be_an_optimizee_is_refused():
    with pytest.raises(InputError, match="FromModule: 1 is dropout, which is random; set p to 0"):
        FromModule(network(nn.Dropout(0.1)))
    FromModule(network(nn.Dropout(0.0)))

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

    with pytest.raises(InputError, match="no part of Bare has a reset_parameters"):
        FromModule(Bare())


def test_labels_beyond_the_classes_are_one_sentence():
    problems = Problems(FromModule(network()))
    bad, theta = {"image": IMAGES["image"], "label": torch.full((2, 5), 3)}, problems.draw(2, keyed_generator(0))
    sentence = r"FromModule cannot be evaluated on image .*: index 3 is out of bounds"
    with pytest.raises(InputError, match=sentence):
        problems.losses(theta, bad)
    problems.losses_and_grads(theta, IMAGES)
    with pytest.raises(InputError, match=sentence):  # in a later minibatch, too
        problems.losses_and_grads(theta, bad)
