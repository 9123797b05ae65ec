"""``l2l export``: a trained rule as a file to be passed on."""

from collections.abc import Sequence

from l2l_lightning.cli.commands.base import CommandParser, Run, existing_file
from l2l_lightning.files import rule_file

HELP = "a trained rule as a .safetensors file to be passed on"


def main(arguments: Sequence[str], run: Run) -> None:
    """Write the file and say what is in it.

    Raises:
        InputError: for a file that is missing or no checkpoint, or an output that exists.
    """
    parser = CommandParser("export", "Write the rule of a checkpoint with its description into one .safetensors file.")
    parser.add_argument("--ckpt_path", required=True, help="checkpoint written by `l2l fit`")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="new file")
    parser.add_allow()
    options = parser.parse_args(arguments)
    description = rule_file.export(existing_file(options.ckpt_path, "--ckpt_path"), options.output, options.allow)
    kind = description["rule"]["class_path"].rpartition(".")[2]
    print(f"{options.output}: {kind}, sha256 {description['sha256']}")
