"""A trained update rule as a ``torch.optim.Optimizer``."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from l2l_lightning.core.errors import InputError, check_choice, check_non_negative, check_positive_int
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.core.state import RuleState
from l2l_lightning.files import rule_file
from l2l_lightning.files.description import describe, differences
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.partitioned import PartitionedRule

NotFinite = Literal["skip", "error"]
STEP = "step"
OWN = ("not_finite", "chunk_size", "allow", "skipped", "_parts", "_part_of")  # attributes of this class that are copied


class _Kind(NamedTuple):
    """Parameters alike in all of this are updated together."""

    rule: int
    device: torch.device
    dtype: torch.dtype
    step: int


class _Chunk(NamedTuple):
    """Coordinates that one call of the rule updates: whole parameters, or a part of a large one."""

    params: list[Tensor]
    where: slice

    def cut(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """The chunk's part of flat tensors (*features, numel), one a parameter."""
        return [tensor[..., self.where] for tensor in tensors]

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        """The same as one tensor (*features, n)."""
        pieces = self.cut(tensors)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)


class LearnedOptimizer(Optimizer):
    """Updates parameters by an update rule, in place of Adam in any loop.

    ``step`` treats all parameters of a group as one vector and cuts it into chunks, whose size bounds the memory that
    the rule's network takes. State leaves are kept a parameter, (*features, *shape), in float32 (float64 for parameters
    in float64). A rule is not trained here.

    Args:
        params: parameters, named parameters, or groups of them; a group may have its own ``rule``, ``lr`` and
            ``maximize``. A ``PartitionedRule`` needs named parameters, and routes that look at names alone.
        rule: an update rule, a training checkpoint, an exported file, or the name of a pretrained rule.
        lr: factor on the rule's steps, for schedulers and for tuning; 1 is what the rule was trained with.
        maximize: go up instead of down.
        not_finite: what happens to a parameter whose gradient is not finite: ``skip`` leaves it and its state alone
            in this step, counts it in ``skipped`` and warns once; ``error`` raises.
        chunk_size: the most coordinates of one call of the rule.
        allow: class paths of your own that may be imported because a rule's file names them.

    Attributes:
        skipped: how often a parameter was left alone because of its gradient.

    Raises:
        InputError: for a rule that cannot be found, read or used here, bad numbers, sparse gradients, complex
            parameters, or a state that belongs to another rule.
    """

    def __init__(
        self,
        params: ParamsT,
        rule: UpdateRule | str | Path,
        lr: float = 1.0,
        maximize: bool = False,
        not_finite: NotFinite = "skip",
        chunk_size: int = 65536,
        allow: Sequence[str] = (),
    ) -> None:
        check_choice(self, get_args(NotFinite), not_finite=not_finite)
        check_positive_int(self, chunk_size=chunk_size)
        self.not_finite, self.chunk_size, self.allow = not_finite, chunk_size, tuple(allow)
        self.skipped = 0
        self._parts: list[UpdateRule] = []  # what updates parameters; a PartitionedRule has several
        self._part_of: dict[Tensor, int] = {}
        self._placed: dict[tuple[int, torch.device, torch.dtype], UpdateRule] = {}
        super().__init__(params, {"rule": _rule_of(rule, allow), "lr": lr, "maximize": maximize})

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold; torch names its own attributes alone."""
        own = {name: vars(self)[name] for name in OWN}
        return super().__getstate__() | own | {"_placed": {}}

    # Groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters that appear later; a group without a ``rule`` takes that of the optimizer."""
        super().add_param_group(dict(param_group))  # the caller's own keeps its rule
        group = self.param_groups[-1]
        names = group.get("param_names", [None] * len(group["params"]))
        try:
            rule = _rule_of(group["rule"], self.allow)
            # Plain values only, so that a saved state loads with weights_only=True.
            group["rule"] = describe(rule) | {"sha256": rule_file.digest(rule.state_dict())}
            self._check(group)
            parts = [_part(rule, name) for name in names]
        except Exception:
            self.param_groups.pop()
            raise
        for param, part in zip(group["params"], parts, strict=True):
            known = next((place for place, other in enumerate(self._parts) if other is part), len(self._parts))
            if known == len(self._parts):
                self._parts.append(part)
            self._part_of[param] = known

    def _check(self, group: dict[str, Any]) -> None:
        lr = group["lr"]
        check_non_negative(self, lr=lr.item() if isinstance(lr, Tensor) else lr)
        if any(param.is_complex() for param in group["params"]):
            raise InputError("LearnedOptimizer does not take complex parameters; use torch.view_as_real.")

    # Steps

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Args:
            closure: evaluates the model anew and returns its loss; called first, with gradients enabled.

        Returns:
            What the closure returned, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        seen = loss.detach() if isinstance(loss, Tensor) and loss.dim() == 0 else None
        ready = self._ready([param for group in self.param_groups for param in group["params"]])
        for group in self.param_groups:
            for kind, params in self._alike([param for param in group["params"] if param in ready]).items():
                self._update(kind, params, group, seen)
        return loss

    def _ready(self, params: Sequence[Tensor]) -> set[Tensor]:
        """The parameters to be updated in this step; what is wrong with others shows before any of them moves."""
        with_grad = [param for param in params if param.grad is not None and param.numel()]
        if any(param.grad.layout != torch.strided for param in with_grad):  # type: ignore[union-attr]
            raise InputError("LearnedOptimizer takes no sparse gradients; make the embedding dense (sparse=False).")
        finite = _all_finite([param.grad for param in with_grad])  # type: ignore[misc]
        bad = finite.count(False)
        if bad:
            if self.not_finite == "error":
                raise InputError(f"LearnedOptimizer: the gradients of {bad} parameters are not finite.")
            if not self.skipped:
                warnings.warn(
                    f"LearnedOptimizer: the gradients of {bad} parameters are not finite; they are left alone in this "
                    "step. Further ones are counted in `skipped`.",
                    stacklevel=5,  # through torch's wrappers of ``step``
                )
            self.skipped += bad
        return {param for param, good in zip(with_grad, finite, strict=True) if good}

    def _alike(self, params: list[Tensor]) -> dict[_Kind, list[Tensor]]:
        alike: dict[_Kind, list[Tensor]] = {}
        for param in params:
            dtype = _working_dtype(param)
            part = self._part_of[param]
            state = self.state[param]
            if not state:
                rule = self._rule(part, param.device, dtype)
                state[STEP] = torch.tensor(0)
                leaves = rule.init_state(param.detach().reshape(-1).to(dtype))
                # Leaves may share memory with theta or with each other, and are written in place.
                state.update({name: leaf.clone().unflatten(-1, _shape(param)) for name, leaf in leaves.items()})
            alike.setdefault(_Kind(part, param.device, dtype, int(state[STEP])), []).append(param)
        return alike

    def _rule(self, part: int, device: torch.device, dtype: torch.dtype) -> UpdateRule:
        key = (part, device, dtype)
        if key not in self._placed:
            rule = copy.deepcopy(self._parts[part]).to(device).requires_grad_(False)
            for param in rule.parameters():
                param.data = param.data.to(dtype)
            for buffer in rule.buffers():  # decays near 1 are kept in double precision
                if buffer.is_floating_point():
                    buffer.data = buffer.data.to(torch.promote_types(buffer.dtype, dtype))
            self._placed[key] = rule
        return self._placed[key]

    def _update(self, kind: _Kind, params: list[Tensor], group: dict[str, Any], loss: Tensor | None) -> None:
        rule = self._rule(kind.rule, kind.device, kind.dtype)
        step = torch.tensor(kind.step, device=kind.device)
        # Views where the memory is contiguous, copies elsewhere.
        theta = {param: param.detach().reshape(-1) for param in params}
        grad = {param: param.grad.reshape(-1) for param in params}  # type: ignore[union-attr]
        leaves = {param: self._leaves(param) for param in params}
        for chunk in _chunks(params, self.chunk_size):
            sizes = [len(piece) for piece in chunk.cut(theta[param] for param in chunk.params)]
            gradient = chunk.join(grad[param] for param in chunk.params).to(kind.dtype)
            inputs = RuleInput(
                chunk.join(theta[param] for param in chunk.params).to(kind.dtype),
                -gradient if group["maximize"] else gradient,
                loss,
                step,
            )
            names = leaves[chunk.params[0]]
            state = {name: chunk.join(leaves[param][name] for param in chunk.params) for name in names}
            moves = group["lr"] * rule.step_(inputs, state)
            if len(chunk.params) > 1:  # else the state was written where it lies
                for name, leaf in state.items():
                    old = chunk.cut(leaves[param][name] for param in chunk.params)
                    torch._foreach_copy_(old, leaf.split(sizes, -1))
            for piece, move in zip(chunk.cut(theta[param] for param in chunk.params), moves.split(sizes), strict=True):
                piece.add_(move)
        for param in params:
            if not param.is_contiguous():
                param.copy_(theta[param].view(param.shape))
            self.state[param][STEP] += 1

    def _leaves(self, param: Tensor) -> RuleState:
        """The rule's state of one parameter as flat views (*features, numel)."""
        dims = max(param.dim(), 1)
        return {
            name: leaf.flatten(leaf.dim() - dims) if param.dim() else leaf
            for name, leaf in self.state[param].items()
            if name != STEP
        }

    # Saved states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken.

        Raises:
            InputError: if it belongs to another rule, or to none.
        """
        own = [group["rule"] for group in self.param_groups]
        saved = [group.get("rule") for group in state_dict["param_groups"]]
        for place, (mine, theirs) in enumerate(zip(own, saved, strict=False)):
            differing = differences(theirs or {}, mine)
            if differing:
                raise InputError(
                    f"The state of group {place} belongs to another rule than this optimizer's "
                    f"({'; '.join(differing)}); build the optimizer with the rule that it was saved with."
                )
        super().load_state_dict(state_dict)
        # torch casts state to the parameter's type; ours has the type that the rule works in.
        order = [param for group in self.param_groups for param in group["params"]]
        places = [place for group in state_dict["param_groups"] for place in group["params"]]
        for param, place in zip(order, places, strict=True):
            for name, leaf in state_dict["state"].get(place, {}).items():
                home = "cpu" if name == STEP else param.device  # a count on a GPU would have to be waited for
                dtype = _working_dtype(param) if leaf.is_floating_point() else leaf.dtype
                self.state[param][name] = leaf.to(home, dtype, copy=True)


def _rule_of(given: UpdateRule | str | Path, allow: Sequence[str]) -> UpdateRule:
    if isinstance(given, UpdateRule):
        return given
    if not isinstance(given, str | Path):
        raise InputError(f"LearnedOptimizer: rule must be an update rule, a file or a name, got {given!r}.")
    return rule_file.load(given, allow)


def _part(rule: UpdateRule, name: str | None) -> UpdateRule:
    """The rule of one parameter."""
    if name is None and type(rule).for_parameter is not UpdateRule.for_parameter:
        raise InputError(
            f"LearnedOptimizer: a {type(rule).__name__} needs the parameters' names; pass model.named_parameters()."
        )
    routes = [route for part in rule.modules() if isinstance(part, PartitionedRule) for route in part.routes]
    blind = next((route.module for route in routes if route.module != "*"), None)
    if blind is not None:
        raise InputError(
            f"LearnedOptimizer: a PartitionedRule's routes must look at names alone here, but one has module {blind!r}."
        )
    return rule.for_parameter(name or "", "?")  # no parameter knows the module that owns it


def _working_dtype(param: Tensor) -> torch.dtype:
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def _shape(param: Tensor) -> torch.Size:
    return param.shape or torch.Size([1])


def _all_finite(tensors: list[Tensor]) -> list[bool]:
    """Whether all values are finite, a tensor; one look at each device."""
    found = [True] * len(tensors)
    for device in {tensor.device for tensor in tensors}:
        places = [place for place, tensor in enumerate(tensors) if tensor.device == device]
        extremes = torch.stack([torch.stack(torch.aminmax(tensors[place])) for place in places])
        for place, finite in zip(places, extremes.isfinite().all(1).tolist(), strict=True):
            found[place] = finite
    return found


def _chunks(params: list[Tensor], size: int) -> Iterator[_Chunk]:
    """Small parameters together, large ones in parts of ``size``."""
    small: list[Tensor] = []
    for param in params:
        if param.numel() > size:
            for start in range(0, param.numel(), size):
                yield _Chunk([param], slice(start, start + size))
        else:
            if sum(other.numel() for other in small) + param.numel() > size:
                yield _Chunk(small, slice(None))
                small = []
            small.append(param)
    if small:
        yield _Chunk(small, slice(None))
