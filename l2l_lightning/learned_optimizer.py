"""A trained update rule as a ``torch.optim.Optimizer``."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from l2l_lightning.core.coordinates import UNKNOWN, CoordinateLayout, Kind, tensor_kinds
from l2l_lightning.core.errors import InputError, check_choice, check_non_negative, check_positive_int
from l2l_lightning.core.pieces import Piece, chunks, downhill, stack, unstack
from l2l_lightning.core.rule import RuleInput, Scope
from l2l_lightning.core.state import RuleState
from l2l_lightning.files import rule_file
from l2l_lightning.files.description import describe, differences
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.tensors import TensorRule

NotFinite = Literal["skip", "error"]
STEP = "step"
# Attributes of this class that are copied.
OWN = ("not_finite", "chunk_size", "allow", "total_steps", "skipped", "_rules", "_rule_of", "_names", "_kinds")


class _Kind(NamedTuple):
    """Parameters alike in all of this are updated together."""

    rule: int
    device: torch.device
    dtype: torch.dtype


class LearnedOptimizer(Optimizer):
    """Updates parameters by an update rule, in place of Adam in any loop.

    A rule of scope "coordinate" gets chunks of coordinates, whose size bounds the memory that its network takes; a
    rule of scope "tensor" gets whole tensors, those of equal shape and kind stacked; a rule of scope "problem" gets all
    parameters of all its groups at once. State leaves are kept a parameter, (*features, *shape) or (*features, k), in
    float32 (float64 for parameters in float64). A parameter without a gradient is left out, and its state stays as it
    is. A rule is not trained here.

    Args:
        params: parameters, named parameters, or groups of them; a group may have its own ``rule``, ``lr`` and
            ``maximize``. A ``PartitionedRule`` needs named parameters, and routes that look at names alone.
        rule: an update rule, a training checkpoint, an exported file, or the name of a pretrained rule.
        lr: factor on the rule's steps, for schedulers and for tuning; 1 is what the rule was trained with.
        maximize: go up instead of down.
        not_finite: what happens to a parameter whose gradient is not finite: ``skip`` leaves it and its state alone
            in this step, counts it in ``skipped`` and warns once; ``error`` raises.
        chunk_size: the most coordinates of one call of a rule that looks at every coordinate alone; other rules get
            whole tensors, whatever it is.
        total_steps: how many steps the training will have, for rules that look at it; unknown where none is given.
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
        total_steps: int | None = None,
        allow: Sequence[str] = (),
    ) -> None:
        check_choice(self, get_args(NotFinite), not_finite=not_finite)
        check_positive_int(self, chunk_size=chunk_size)
        if total_steps is not None:
            check_positive_int(self, total_steps=total_steps)
        self.not_finite, self.chunk_size, self.allow = not_finite, chunk_size, tuple(allow)
        self.skipped = 0
        self.total_steps = total_steps
        self._rules: list[UpdateRule] = []
        self._rule_of: dict[Tensor, int] = {}
        self._names: dict[Tensor, str] = {}  # empty where the caller gave none
        self._kinds: dict[Tensor, Kind] = {}
        self._placed: dict[_Kind, UpdateRule] = {}
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
        try:
            rule = _rule_of(group["rule"], self.allow)
            # Plain values only, so that a saved state loads with weights_only=True.
            group["rule"] = describe(rule) | {"sha256": rule_file.digest(rule.state_dict())}
            self._check(group)
            names = group.get("param_names", [""] * len(group["params"]))
            self._check_rule(rule, group["params"], names)
        except Exception:
            self.param_groups.pop()
            raise
        known = next((place for place, other in enumerate(self._rules) if other is rule), len(self._rules))
        if known == len(self._rules):
            self._rules.append(rule)
        self._rule_of.update(dict.fromkeys(group["params"], known))
        self._names.update(zip(group["params"], names, strict=True))
        every = [param for other in self.param_groups for param in other["params"]]
        self._kinds = dict(zip(every, tensor_kinds([param.shape for param in every]), strict=True))

    def _check_rule(self, rule: UpdateRule, params: list[Tensor], names: Sequence[str]) -> None:
        if "total" in rule.needs and self.total_steps is None:
            raise InputError(f"LearnedOptimizer: {type(rule).__name__} needs to know its steps; set total_steps.")
        shapes = tuple(param.shape for param in params)
        layout = CoordinateLayout(tuple(names), shapes, (UNKNOWN,) * len(params), tensor_kinds(shapes))
        rule.check_layout(layout)

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
        if seen is None and any("loss" in rule.needs for rule in self._rules):
            raise InputError(
                "LearnedOptimizer: the rule needs the loss; call step(closure) with a closure returning it."
            )
        ready = self._ready([param for group in self.param_groups for param in group["params"]])
        group_of = {param: group for group in self.param_groups for param in group["params"] if param in ready}
        for kind, params in self._alike(list(group_of)).items():
            for pieces in self._calls(kind, params, group_of):
                self._update(kind, pieces, group_of, seen)
        for param in group_of:
            self.state[param][STEP] += 1
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
            kind = _Kind(self._rule_of[param], param.device, _working_dtype(param))
            alike.setdefault(kind, []).append(param)
        return alike

    def _calls(
        self, kind: _Kind, params: list[Tensor], group_of: dict[Tensor, dict[str, Any]]
    ) -> Iterator[list[list[Piece]]]:
        """What each call of a rule updates: rows of pieces, a row a problem of the rule's.

        Coordinates go in chunks of the same group and count of steps, tensors in stacks of the same shape and kind, and
        a rule of scope "problem" gets all of its parameters at once.
        """
        rule = self._rule(kind)
        scope = rule.scope
        for param in params:
            if not self.state[param]:
                self._start(kind, param, scope)
        if scope == "problem":
            yield [[Piece(param) for param in params]]
            return
        alike: tuple
        together: dict[tuple, list[Tensor]] = {}
        for param in params:
            if scope == "coordinate":
                alike = id(group_of[param]), int(self.state[param][STEP])
            else:  # only a TensorRule cares for no names
                alike = param.shape, self._kinds[param], None if isinstance(rule, TensorRule) else param
            together.setdefault(alike, []).append(param)
        for some in together.values():
            if scope == "tensor":
                yield [[Piece(param)] for param in some]
            else:
                yield from ([chunk] for chunk in chunks(some, self.chunk_size))

    def _layout(self, pieces: Sequence[Piece]) -> CoordinateLayout:
        params = [piece.param for piece in pieces]
        whole = CoordinateLayout(
            tuple(self._names[param] for param in params),
            tuple(param.shape for param in params),
            (UNKNOWN,) * len(params),
            tuple(self._kinds[param] for param in params),
        )
        return whole if pieces[0].part is None else whole.cut(pieces[0].part)

    def _start(self, kind: _Kind, param: Tensor, scope: Scope) -> None:
        """The state of a parameter that moves for the first time."""
        theta = param.detach().reshape(1, -1).to(kind.dtype)  # (1, n)
        leaves = self._rule(kind).init_state(theta, self._layout([Piece(param)]))
        self.state[param][STEP] = torch.tensor(0)
        for name, leaf in leaves.items():
            # Leaves may share memory with theta or with each other, and are written in place.
            own = leaf.squeeze(-2).clone()  # (*features, k)
            whole = own.shape[-1] == param.numel()
            if not whole and (scope != "tensor" or own.dim() > 1):
                raise InputError(
                    f"LearnedOptimizer: the state leaf {name!r} of {type(self._rule(kind)).__name__} does not hold one "
                    "number a coordinate; only a TensorRule may keep others."
                )
            self.state[param][name] = own.unflatten(-1, _shape(param)) if whole else own

    def _rule(self, kind: _Kind) -> UpdateRule:
        if kind not in self._placed:
            rule = copy.deepcopy(self._rules[kind.rule]).to(kind.device).requires_grad_(False)
            for param in rule.parameters():
                param.data = param.data.to(kind.dtype)
            for buffer in rule.buffers():  # decays near 1 are kept in double precision
                if buffer.is_floating_point():
                    buffer.data = buffer.data.to(torch.promote_types(buffer.dtype, kind.dtype))
            self._placed[kind] = rule
        return self._placed[kind]

    def _update(
        self, kind: _Kind, rows: list[list[Piece]], group_of: dict[Tensor, dict[str, Any]], loss: Tensor | None
    ) -> None:
        """One call of a rule on R rows of the same layout."""
        rule, layout = self._rule(kind), self._layout(rows[0])
        flat = {piece.param: piece.param.detach().reshape(-1) for row in rows for piece in row}  # views if contiguous
        theta = stack([[piece.of(flat[piece.param]) for piece in row] for row in rows]).to(kind.dtype)  # (R, n)
        slopes = [[downhill(piece, group_of[piece.param]["maximize"]) for piece in row] for row in rows]
        grad = stack(slopes).to(kind.dtype)  # (R, n)
        t = torch.stack([self._age(row) for row in rows]).to(kind.device, non_blocking=True)  # (R,)
        total = torch.full(t.shape, float(self.total_steps or 0), dtype=kind.dtype, device=kind.device)
        leaves = {piece.param: self._leaves(piece.param) for row in rows for piece in row}
        names = dict.fromkeys(name for row in rows for piece in row for name in leaves[piece.param])
        views = {
            name: [[piece.of(own[name]) for piece in row if name in (own := leaves[piece.param])] for row in rows]
            for name in names
        }
        state = {name: stack(own, dim=-2) for name, own in views.items()}  # (*features, R, k)
        losses = None if loss is None else loss.to(kind.dtype).expand(len(rows))
        moves = rule.step_(RuleInput(theta, grad, losses, t, total, layout), state)  # (R, n)
        for name, rows_of_leaf in views.items():
            if len(rows) > 1 or len(rows[0]) > 1:  # else the state was written where it lies
                unstack(rows_of_leaf, state[name], dim=-2)
        for row, move in zip(rows, moves, strict=True):
            for piece, own_move in zip(row, move.split(layout.sizes), strict=True):
                rate = group_of[piece.param]["lr"]
                piece.of(flat[piece.param]).add_(own_move * rate)
                if not piece.param.is_contiguous():
                    piece.param.copy_(flat[piece.param].view(piece.param.shape))

    def _age(self, row: Sequence[Piece]) -> Tensor:
        """The count of steps of a row; of the oldest parameter where they differ."""
        return max((self.state[piece.param][STEP] for piece in row), key=int)

    def _leaves(self, param: Tensor) -> RuleState:
        """The rule's state of one parameter as flat views (*features, k)."""
        shape = _shape(param)
        return {
            name: leaf.flatten(leaf.dim() - len(shape)) if leaf.shape[-len(shape) :] == shape else leaf
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
