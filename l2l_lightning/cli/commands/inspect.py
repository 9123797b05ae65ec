"""``l2l inspect``: what an exported or pretrained rule is."""

import json
from collections.abc import Sequence

from l2l_lightning.cli.commands.base import CommandParser, Run
from l2l_lightning.core.errors import InputError
from l2l_lightning.files import rule_file

HELP = "the description of an exported or pretrained rule"


def main(arguments: Sequence[str], run: Run) -> None:
    """Print the description, and the card of a pretrained rule.

    Raises:
        InputError: for a file that is missing or no exported rule.
    """
    parser = CommandParser("inspect", "Print what an exported rule is and what it was trained on. Nothing is run.")
    names = ", ".join(rule_file.pretrained_names())
    parser.add_argument("file", help=f"file written by `l2l export`, or the name of a pretrained rule: {names}")
    path = rule_file.find(parser.parse_args(arguments).file)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} is no exported rule; `l2l export` makes one of a checkpoint.")
    description, tensors = rule_file.read(path)
    print(json.dumps(description, indent=2))
    for name, tensor in tensors.items():
        print(f"{ascii(name)[1:-1]}: {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}")
    card = path.with_suffix(".md")
    if path.parent == rule_file.PRETRAINED and card.is_file():
        print(f"\n{card.read_text()}")
