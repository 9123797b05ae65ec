"""``l2l weights``: what trained averages of Adams weigh their inputs with, as tables 4.2 and 4.3 of Shahid 2017."""

from collections.abc import Sequence

from l2l_lightning.cli.commands.base import CommandParser, Run, load_rules
from l2l_lightning.core.errors import InputError
from l2l_lightning.evaluation.report import aligned
from l2l_lightning.rules import LinearAverage, MultiscaleAdam

HELP = "the learned weights of averages of Adams"


def main(arguments: Sequence[str], run: Run) -> None:
    """Print one row an Adam and one column a checkpoint.

    Raises:
        InputError: for a missing file, or the checkpoint of a rule without such weights.
    """
    parser = CommandParser("weights", "Print the learned weights of averages of Adams, one column a checkpoint.")
    parser.add_argument(
        "--ckpt_path", required=True, nargs="+", help="checkpoints of MultiscaleAdam rules with a LinearAverage"
    )
    parser.add_allow()
    options = parser.parse_args(arguments)
    columns: dict[str, dict[tuple[float, ...], float]] = {}
    for name, rule in load_rules(options.ckpt_path, options.allow).items():
        if not isinstance(rule, MultiscaleAdam) or not isinstance(rule.head, LinearAverage):
            raise InputError(f"l2l weights needs a MultiscaleAdam with a LinearAverage, but {name} is another rule.")
        columns[name] = dict(zip(map(tuple, rule.timescales), rule.head.weights.tolist(), strict=True))
    adams = sorted({pair for weights in columns.values() for pair in weights}, reverse=True)
    cells = [[f"{weights[pair]:.5f}" if pair in weights else "" for weights in columns.values()] for pair in adams]
    names = [f"Adam {beta1:g}/{beta2:g}" for beta1, beta2 in adams]
    print(aligned([["", *columns], *([name, *row] for name, row in zip(names, cells, strict=True))]))
