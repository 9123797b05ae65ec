"""``l2l steps``: what a trained KTimesteps answers to given histories, as table 3.1 of Shahid 2017."""

from collections.abc import Sequence

import torch

from l2l_lightning.cli.commands.base import CommandParser, Run, existing_file
from l2l_lightning.core.errors import InputError
from l2l_lightning.files import checkpoint
from l2l_lightning.rules import KTimesteps

HELP = "the steps that a trained KTimesteps answers to given gradients"


def histories(k: int) -> list[list[float]]:
    """Normalized gradients, oldest first: agreement that turns into its opposite, then no gradients at all."""
    return [*([1.0] * (k - turned) + [-1.0] * turned for turned in range(k + 1)), [0.0] * k]


def answers(rule: KTimesteps, rows: Sequence[Sequence[float]]) -> list[float]:
    """delta for each row of k normalized gradients, oldest first; positive is downhill of positive gradients."""
    newest_first = torch.tensor(rows).flip(1).T.contiguous()
    seen = torch.cat((newest_first, torch.zeros_like(newest_first))) if rule.positions else newest_first
    with torch.no_grad():
        return rule.delta(seen).tolist()


def main(arguments: Sequence[str], run: Run) -> None:
    """Print the table for the rule of a checkpoint.

    Raises:
        InputError: for a missing file, or the checkpoint of another kind of rule.
    """
    parser = CommandParser(
        "steps",
        "Print delta for histories of normalized gradients, oldest first. A positive delta steps downhill of positive "
        "gradients. Positions, where the rule sees them, are 0.",
    )
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of a KTimesteps rule, written by `l2l fit`")
    parser.add_allow()
    options = parser.parse_args(arguments)
    rule = checkpoint.load_rule(existing_file(options.ckpt_path, "--ckpt_path"), options.allow)
    if not isinstance(rule, KTimesteps):
        raise InputError(f"l2l steps needs a KTimesteps rule, but the checkpoint holds a {type(rule).__name__}.")
    rows = histories(rule.k)
    head = [f"g[t-{lag}]" if lag else "g[t]" for lag in range(rule.k - 1, -1, -1)]
    print(" ".join(f"{name:>7}" for name in [*head, "delta"]))
    for row, delta in zip(rows, answers(rule, rows), strict=True):
        print(" ".join(f"{value:7.2f}" for value in row), f"{delta:10.7f}")
