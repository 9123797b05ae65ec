"""B copies of an optimizee as pure functions of their coordinates."""

import copy
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError, user_line
from l2l_lightning.core.window import Data

Evaluation = Callable[[Tensor, Data], tuple[Tensor, Tensor]]


class Problems:
    """Losses and gradients of B problems with one optimizee as their template.

    The template only lends its code, its buffers and its initialisation; its parameters are replaced at every call.

    Args:
        optimizee: a module with ``forward(data) -> scalar loss`` and ``reset_parameters(generator)``.
        device: where the problems live.

    Raises:
        InputError: if the optimizee has no parameters.
    """

    def __init__(self, optimizee: nn.Module, device: torch.device | str = "cpu") -> None:
        self.template = copy.deepcopy(optimizee).to(device).requires_grad_(False)
        self.layout = CoordinateLayout.of(self.template)
        self._recorded: dict[tuple, Evaluation] = {}
        if self.layout.n == 0:
            raise InputError(f"The optimizee {type(optimizee).__name__} has no parameters to optimize.")

    @property
    def device(self) -> torch.device:
        """Where the problems live."""
        return next(self.template.parameters()).device

    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Move the template in place."""
        parameter = next(self.template.parameters())
        before = (parameter.device, parameter.dtype)
        if before != (torch.device(device), dtype):
            self.template.to(device)
            for tensor in (*self.template.parameters(), *self.template.buffers()):
                if tensor.dtype == before[1]:  # buffers in another precision are meant to keep it
                    tensor.data = tensor.data.to(dtype)
            self._recorded.clear()  # recordings hold the template's buffers

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Initial thetas (count, n), one call of the optimizee's ``reset_parameters`` each."""
        thetas = []
        for _ in range(count):
            self.template.reset_parameters(generator)  # type: ignore[operator]
            thetas.append(self.layout.flatten(dict(self.template.named_parameters())))
        return torch.stack(thetas)

    def losses(self, theta: Tensor, data: Data) -> Tensor:
        """theta (B, n) and leaves (B, ...) -> losses (B,).

        Raises:
            InputError: if the optimizee does not return one scalar a problem, or cannot read the data.
        """

        def loss(theta: Tensor, data: Data) -> Tensor:
            return functional_call(self.template, self.layout.unflatten(theta), (data,))

        name = type(self.template).__name__
        try:
            losses = vmap(loss)(theta, data) if data else vmap(lambda theta: loss(theta, {}))(theta)
        except (torch.OutOfMemoryError, InputError):
            raise
        except (RuntimeError, IndexError, ValueError) as error:  # IndexError: a label beyond the classes
            shapes = ", ".join(f"{key} {tuple(leaf.shape[1:])}" for key, leaf in data.items()) or "no data"
            where = user_line(error)
            raise InputError(f"The optimizee {name} cannot be evaluated on {shapes}: {error}{where}") from error
        except KeyError as missing:
            raise InputError(
                f"The optimizee {name} reads {missing} from its data{user_line(missing)}, but the DataModule provides "
                f"{sorted(data)}."
            ) from missing
        if losses.shape != theta.shape[:1]:
            raise InputError(
                f"The optimizee {name} must return a scalar loss, but returned shape {tuple(losses.shape[1:])}."
            )
        return losses

    def try_on(self, data: Data) -> None:
        """One loss on data whose leaves lack the dimension of problems; raises what ``losses`` does."""
        theta = self.layout.flatten(dict(self.template.named_parameters()))
        self.losses(theta.unsqueeze(0), {name: leaf.to(theta.device).unsqueeze(0) for name, leaf in data.items()})

    def evaluate(self, theta: Tensor, data: Data, second_order: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (B,), gradients (B, n) and where both are finite, (B,) bool; other gradients are zero.

        With ``second_order`` the first two have a graph to theta, through which no problem that is not finite passes
        anything back.
        """
        # A masked inf would still give 0 * inf = nan in the backward pass through the optimizee.
        seen = self._alive_part(theta, data) if second_order and nested() else theta.view_as(theta)  # (B, n)
        loss, grad = self.losses_and_grads(seen, data, create_graph=second_order)
        alive = _finite(loss, grad)
        mask = alive.unsqueeze(-1)  # (B, 1)
        if second_order and seen.requires_grad:  # never where nested: there tensors take no hooks
            seen.register_hook(lambda g: torch.where(mask, g, 0.0))
        return loss, torch.where(mask, grad, 0.0), alive

    def _alive_part(self, theta: Tensor, data: Data) -> Tensor:
        """theta (B, n) without a graph where losses or gradients are not finite, found where no hook can mask them."""
        alive = _finite(*self.losses_and_grads(theta, data)).unsqueeze(-1)
        return torch.where(alive, theta, theta.detach())

    def losses_and_grads(self, theta: Tensor, data: Data, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Losses (B,) and gradients (B, n); both constants unless ``create_graph``. Works under ``no_grad`` too.

        Without a graph, the tensor operations of the first call are recorded and replayed for data of the same shapes:
        the Python of ``functional_call``, ``vmap`` and autograd takes longer than a small problem's arithmetic.
        """
        if create_graph or nested():
            return self._evaluate(theta, data, create_graph)
        key = _key(theta, data)
        if key not in self._recorded:
            self._recorded[key] = self._record(theta, data)
        try:
            with torch.no_grad():
                return self._recorded[key](theta.detach(), data)
        except (RuntimeError, IndexError):  # such as a label beyond the classes: in plain words this time
            return self._evaluate(theta, data)

    def _evaluate(self, theta: Tensor, data: Data, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Problems do not interact, so the gradient of the summed losses holds each problem's own."""
        if nested():

            def total(theta: Tensor) -> tuple[Tensor, Tensor]:
                losses = self.losses(theta, data)
                return losses.sum(), losses

            grads, losses = torch.func.grad(total, has_aux=True)(theta if create_graph else theta.detach())
            return (losses, grads) if create_graph else (losses.detach(), grads.detach())
        with torch.enable_grad():
            theta = theta if create_graph and theta.requires_grad else theta.detach().requires_grad_()
            losses = self.losses(theta, data)
            (grads,) = torch.autograd.grad(losses.sum(), theta, create_graph=create_graph)
        return (losses, grads) if create_graph else (losses.detach(), grads)

    def _record(self, theta: Tensor, data: Data) -> Evaluation:
        self._evaluate(theta, data)  # an author's mistake shows here, in plain words
        try:
            with torch.autograd.set_detect_anomaly(False):  # which looks at values, and a recording has none
                return make_fx(lambda theta, data: self._evaluate(theta, data))(theta.detach(), data)
        except Exception as error:  # what cannot be recorded is run as it is
            name = type(self.template).__name__
            warnings.warn(f"The optimizee {name} cannot be recorded and runs slower for it: {error}", stacklevel=2)
            return self._evaluate

    def compile(self, theta: Tensor, data: Data) -> float | None:
        """From now on, evaluate data of these shapes by machine code.

        Returns:
            The seconds that the compilation took; None with a warning where it failed, and all goes on without.
        """
        start = time.perf_counter()
        self.losses_and_grads(theta, data)
        key = _key(theta, data)
        compiled: Evaluation = torch.compile(self._recorded[key], dynamic=False)
        try:
            with torch.no_grad():
                compiled(theta.detach(), data)
        except Exception as error:  # compilers fail in many ways
            name, reason = type(self.template).__name__, str(error).strip().partition("\n")[0]
            warnings.warn(f"The optimizee {name} runs without compilation, which failed: {reason}", stacklevel=2)
            return None
        self._recorded[key] = compiled
        return time.perf_counter() - start

    def metrics(self, theta: Tensor, data: Data) -> dict[str, Tensor]:
        """The optimizee's metrics, leaves (B,), for theta (B, n) on data that all problems share."""

        call = _MetricsCall(self.template)

        def metrics(theta: Tensor) -> dict[str, Tensor]:
            parameters = {f"optimizee.{name}": value for name, value in self.layout.unflatten(theta).items()}
            return functional_call(call, parameters, (data,))

        return vmap(metrics)(theta)


def _finite(loss: Tensor, grad: Tensor) -> Tensor:
    """(B,) bool from losses (B,) and gradients (B, n), whose largest magnitude is nan or inf where any other is."""
    return grad.detach().abs().amax(-1) + loss.detach().abs() < torch.inf


def nested() -> bool:
    """Whether this runs inside another optimizee, which ``torch.func`` transforms.

    Tensors do not say there whether they require a gradient, take no hooks, and ``torch.autograd.grad`` sees nothing.
    """
    return torch._C._are_functorch_transforms_active()


def _key(theta: Tensor, data: Data) -> tuple:
    """What a recording depends on."""
    return tuple((name, leaf.shape, leaf.dtype, leaf.device) for name, leaf in (("", theta), *data.items()))


class _MetricsCall(nn.Module):
    """``functional_call`` calls ``forward`` only; this makes ``metrics`` the forward."""

    def __init__(self, optimizee: nn.Module) -> None:
        super().__init__()
        self.optimizee = optimizee

    def forward(self, data: Data) -> dict[str, Tensor]:
        return self.optimizee.metrics(data)  # type: ignore[operator]
