"""
Prepares a data set.

    python scripts/prepare_dataset.py streets data/streets     # draws a small synthetic town in the Cityscapes layout
"""

import argparse
import inspect
import sys

from scl_hf.data.streets import draw_streets
from scl_hf.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepares a data set.")
    commands = parser.add_subparsers(dest="command", required=True)
    streets = commands.add_parser("streets", help="draw a small synthetic town in the Cityscapes folder layout")
    streets.add_argument("data_dir", metavar="DATA_DIR", help="a folder that does not exist yet or is empty")
    for name, parameter in inspect.signature(draw_streets).parameters.items():
        if name != "data_dir":
            streets.add_argument(f"--{name}", type=int, default=parameter.default, help="default: %(default)s")
    arguments = vars(parser.parse_args())
    arguments.pop("command")
    try:
        draw_streets(**arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
