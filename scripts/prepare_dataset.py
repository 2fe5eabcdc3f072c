"""
Prepares a dataset.

    python scripts/prepare_dataset.py streets data/streets     # draws a synthetic toy dataset in the Cityscapes layout
    python scripts/prepare_dataset.py check data/cityscapes    # counts every file, opens it, and lists what is wrong
    python scripts/prepare_dataset.py check --recipe mine.yaml    # and draws labels over images: runs/check_mine.png
    python scripts/prepare_dataset.py masks instances.json --output my_labels    # draws labels of COCO or labelme
    python scripts/prepare_dataset.py push MY_DATA my_parquet --repo user/name --license cc-by-4.0   # Parquet, the Hub

`check` exits with code 1 if anything is wrong, missing or broken. Wrong input ends with one line and exit code 2.
"""

import argparse
import inspect

from toy_dataset import draw_toy_dataset

from scl_hf.cli import RecipeParser, run_script
from scl_hf.config import other_fields
from scl_hf.data import DataArguments
from scl_hf.data.annotations import write_masks
from scl_hf.data.check import check_data
from scl_hf.data.publish import push_data
from scl_hf.files import check_writable


def main() -> int:
    parser = argparse.ArgumentParser(description="Prepares a dataset.")
    commands = parser.add_subparsers(dest="command", required=True)
    layouts = "Cityscapes, Mapillary Vistas, or any folders of images and labels"
    fields = "a recipe with the classes and the other data fields of a folder of your own"
    empty = "a folder that does not exist yet or is empty"
    terms = "the data's license forbids redistribution, and all who see the private repository have accepted it"

    streets = commands.add_parser("streets", help="draw a toy dataset in the Cityscapes folder layout")
    streets.add_argument("data_dir", metavar="DATA_DIR", help=empty)
    for name, parameter in inspect.signature(draw_toy_dataset).parameters.items():
        if name != "data_dir":
            streets.add_argument(f"--{name}", type=int, default=parameter.default, help="default: %(default)s")

    check = commands.add_parser("check", help="count all files, open them, and list what is missing or broken")
    check.add_argument("data_dir", metavar="DATA_DIR", nargs="?", help=f"{layouts}; default: that of the recipe")
    check.add_argument("--recipe", metavar="RECIPE", help=fields)
    picture = "file of labels over images; default: runs/check_NAME.png; null: none"
    check.add_argument("--picture", metavar="FILE", help=picture)
    check.add_argument("--num_proc", type=int, help="processes; default: one for each core")

    masks = commands.add_parser("masks", help="draw the objects of COCO or labelme annotations into label files")
    masks.add_argument("annotations", metavar="ANNOTATIONS", help="COCO's JSON file, or labelme's or a folder of them")
    masks.add_argument("--output", metavar="DIR", dest="output_dir", required=True, help=empty)
    masks.add_argument("--classes", metavar="NAME", nargs="+", help="in the order of their ids; others are background")

    push = commands.add_parser("push", help="write Parquet files with embedded images, and push them to the Hub")
    push.add_argument("data_dir", metavar="DATA_DIR", help=layouts)
    push.add_argument("output_dir", metavar="OUTPUT_DIR", help=empty)
    push.add_argument("--recipe", metavar="RECIPE", help=fields)
    push.add_argument("--repo", metavar="USER/NAME", help="the dataset on the Hub; without it nothing is sent")
    push.add_argument("--private", action="store_true", help="create it private, refuse one that is public")
    push.add_argument("--license", help="of images and labels, such as cc-by-4.0; a public dataset needs one")
    push.add_argument("--accept_license", action="store_true", help=terms)

    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    if path := arguments.get("recipe"):
        (arguments["recipe"],) = RecipeParser((DataArguments,)).parse_recipe([path], other_fields(DataArguments))
    if command == "streets":
        draw_toy_dataset(**arguments)
    elif command == "masks":
        print(write_masks(**arguments))
    elif command == "push":
        print(push_data(**arguments))
    else:
        from scl_hf.visualization.confusion import check_figure_path
        from scl_hf.visualization.overview import plot_overview

        if (picture := arguments.pop("picture")) != "null":
            check_writable("picture", check_figure_path(picture or "runs/check.png").parent)
        report = check_data(**arguments)
        print(report)
        if picture != "null" and (samples := (report.labeled, report.unlabeled)) != ([], []):
            path = picture or f"runs/check_{report.name}.png"
            plot_overview(*samples, report.id2label, report.palette, report.shares, path)
            print(f"Look at {path}: labels over images, and how often each class occurs.")
        return 0 if report.sound else 1
    return 0


if __name__ == "__main__":
    run_script(main)
