"""Evolution strategies: the meta-gradient from losses alone."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import check_positive
from l2l_lightning.core.estimators.backpropagation import weighted
from l2l_lightning.core.estimators.base import Estimator, EstimatorState
from l2l_lightning.core.estimators.replay import WithGradient
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.rule import Rule, RuleInput
from l2l_lightning.core.state import InnerState, RuleState
from l2l_lightning.core.unroll import Unrolled, state_after, unroll
from l2l_lightning.core.window import Window


class EvolutionStrategies(Estimator):
    """Truncated antithetic evolution strategies: one perturbation of phi a problem, drawn anew for each window.

    Each problem is there twice, and its copies walk from the same state with phi + sigma eps and phi - sigma eps, eps
    standard normal. The gradient is the mean over problems of (L+ - L-) / (2 sigma) eps, that of the meta-loss smoothed
    by a Gaussian of width sigma (Rechenberg 1973; antithetic as in Salimans et al. 2017, section 2). Both copies go on
    from where the positive one ended. The gradient is unbiased for the smoothed meta-loss of the window; as with
    truncated backpropagation, the losses of later windows are not in it. A pair of which either copy is not finite at
    any point does not count.

    Args:
        sigma: standard deviation of the perturbation of every number in phi.

    Raises:
        InputError: for a sigma that is not positive.
    """

    copies: ClassVar[int] = 2

    def __init__(self, sigma: float = 0.01) -> None:
        check_positive(self, sigma=sigma)
        self.sigma = sigma

    @torch.no_grad()
    def window(
        self,
        rule: Rule,
        problems: Problems,
        inner: InnerState,
        window: Window,
        objective: Objective,
        state: EstimatorState,
        generator: torch.Generator,
    ) -> tuple[Unrolled, EstimatorState]:
        assert isinstance(rule, nn.Module)
        pairs = len(inner.theta) // 2  # B
        phi = {name: parameter for name, parameter in rule.named_parameters() if parameter.requires_grad}
        noise = {
            name: torch.randn(pairs, *parameter.shape, generator=generator, device=generator.device).to(parameter)
            for name, parameter in phi.items()
        }  # (B, *shape) each
        signed = {name: self.sigma * torch.cat((eps, -eps)) for name, eps in noise.items()}  # (2B, *shape) each
        tape = PerturbedTape(rule, inner.rule, {name: phi[name] + signed[name] for name in phi})
        losses, alives = [], []
        for point in unroll(tape, problems, inner, window):
            losses.append(point.loss)
            alives.append(point.alive)
        curve, alive = torch.stack(losses), torch.stack(alives)  # (U+1, 2B)

        whole = alive.all(0).view(2, pairs).all(0)  # (B,)
        weights = objective.point_weights(window.unroll, curve).unsqueeze(-1)  # (U+1, 1)
        values = (weights * objective.value(torch.where(alive, curve, 1.0))).sum(0)  # (2B,)
        slope = torch.where(whole, values[:pairs] - values[pairs:], 0.0) / (2 * self.sigma * whole.sum())  # (B,)
        gradients = [torch.tensordot(slope.to(eps), eps, 1) for eps in noise.values()]
        meta_loss, _ = weighted(objective, curve, alive & whole.repeat(2))
        with torch.enable_grad():
            meta_loss = WithGradient.apply(meta_loss, *gradients, *phi.values())
        end = state_after(inner, tape.state, point.theta, alive)
        return Unrolled(meta_loss, curve, _first_copy(end, pairs)), state


class PerturbedTape:
    """Steps of a rule with a phi for each problem.

    Args:
        rule: a pure module.
        state: leaves (*features, B, k).
        phi: its perturbed parameters (B, *shape); the others are shared.
    """

    def __init__(self, rule: nn.Module, state: RuleState, phi: dict[str, Tensor]) -> None:
        self.rule, self.state, self.phi = rule, state, phi

    def __call__(self, inputs: RuleInput) -> Tensor:
        assert inputs.loss is not None, "unroll() knows the losses"
        layout: CoordinateLayout = inputs.layout

        def step(phi: dict[str, Tensor], state: RuleState, *seen: Tensor) -> tuple[Tensor, RuleState]:
            """One problem; a rule that sees a single one still has the dimension of problems, of length 1."""
            alone = {name: leaf.unsqueeze(-2) for name, leaf in state.items()}
            theta, grad, loss, t, total = (x.unsqueeze(0) for x in seen)
            inputs = RuleInput(theta, grad, loss, t, total, layout)
            update, alone = functional_call(self.rule, phi, (inputs, alone))
            return update.squeeze(0), {name: leaf.squeeze(-2) for name, leaf in alone.items()}

        places = {name: leaf.dim() - 2 for name, leaf in self.state.items()}  # of the problems in each leaf
        update, new_state = vmap(step, in_dims=(0, places, 0, 0, 0, 0, 0))(
            self.phi,
            self.state,
            inputs.theta,
            inputs.grad,
            inputs.loss,
            inputs.t,
            inputs.total,
        )
        self.state = {name: leaf.movedim(0, places[name]) for name, leaf in new_state.items()}
        return update

    def updates(self) -> Tensor:
        """Nothing is kept: losses alone make the gradient."""
        raise NotImplementedError


def _first_copy(state: InnerState, pairs: int) -> InnerState:
    """The state in which both copies stand where the first one does; a problem has diverged if either copy has."""
    return replace(
        state,
        theta=state.theta[:pairs].repeat(2, 1),
        rule={name: torch.cat([leaf[..., :pairs, :]] * 2, -2) for name, leaf in state.rule.items()},
        diverged=state.diverged.view(2, pairs).any(0).repeat(2),
    )
