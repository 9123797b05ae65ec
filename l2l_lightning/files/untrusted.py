"""Checks for rules from untrusted files: what describes a rule, and the memory that building it may take."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as registrations

from l2l_lightning.core.errors import InputError, brief
from l2l_lightning.files.build import check_plain


def check_finite(tensors: dict[str, Tensor], name: str) -> None:
    """Reject phi with numbers that are not finite.

    Raises:
        InputError: naming the first tensor with such numbers.
    """
    for key, tensor in tensors.items():
        try:
            finite = bool(tensor.isfinite().all())
        except NotImplementedError:  # numbers of four bits and other types that no rule has
            finite = False
        if not finite:
            raise InputError(f"{name} holds numbers that are not finite, in {brief(key)}.")


def check_described(described: dict[str, Any], name: str) -> None:
    """Reject anything but descriptions of a rule and of what it was trained on.

    Raises:
        InputError: naming the key with a wrong value.
    """
    rule, trained_on = described.get("rule"), described.get("trained_on", {})
    check_plain(rule, f"{name}: rule")
    check_plain(trained_on, f"{name}: trained_on")
    if type(rule) is not dict or type(rule.get("class_path")) is not str or type(rule.get("init_args")) is not dict:
        raise InputError(f"{name}: rule must be a class_path and its init_args, got {brief(rule)}.")
    if type(trained_on) is not dict:
        raise InputError(f"{name}: trained_on must be a dictionary, got {brief(trained_on)}.")


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Modules that are built inside may register this many parameters, buffers and parts; a loop of more stops.

    Raises:
        InputError: as soon as there are more.
    """
    here, found = threading.get_ident(), 0

    def register(owner: nn.Module, name: str, thing: object) -> None:
        nonlocal found
        if threading.get_ident() != here:
            return
        found += 1
        if found > count:
            raise InputError("it has more parameters than the file holds")

    with ExitStack() as stack:
        for hook in (
            registrations.register_module_parameter_registration_hook,
            registrations.register_module_buffer_registration_hook,
            registrations.register_module_module_registration_hook,
        ):
            stack.callback(hook(register).remove)
        yield
