"""
Runs a table of results, rows × label shares × seeds, each cell of it a process of scripts/train.py:

    python scripts/reproduce.py recipes/tables/method.yaml --data_dir CAMVID
    python scripts/reproduce.py recipes/tables/cityscapes_table2.yaml --dry_run true --seconds_per_step 1.5

Further `--field value` are those of train.py, for all cells; the table's rows win over them. Stopped in any way and
started again it goes on where it was: cells that are done are kept, one in the middle resumes from its checkpoint.
Writes per cell a result.json and its logs, and in the end a page of Markdown, a picture and the scores of all cells as
CSV, named after the table.
Exit code 1: a cell failed, the others are done; started again it is tried again. 2: wrong input. 130: stopped.
"""

import argparse
import shlex
import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn

from reproduction.figure import plot_table
from reproduction.report import markdown_page, scores_csv
from reproduction.running import check_folder, command, only_one, read_result, run_cells, slots
from reproduction.summary import Summary
from reproduction.table import Table, read_table
from transformers.hf_argparser import string_to_bool

from scl_hf.checkpointing.signals import Interrupted
from scl_hf.cli import run_script
from scl_hf.data import load_data
from scl_hf.errors import InputError
from scl_hf.files import check_writable, replacing
from scl_hf.pretrained import load_model


def main() -> int:
    # 1. The table, and what is asked of it
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", type=Path, metavar="TABLE.yaml", help="one of recipes/tables, or your own")
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help="default: runs/<name of the table>")
    parser.add_argument("--jobs", type=int, metavar="N", help="cells at once; default: one for each GPU or core")
    parser.add_argument("--dry_run", type=string_to_bool, default=False, metavar="true|false", help="only list cells")
    parser.add_argument("--seconds_per_step", type=float, metavar="S", help="of a cell; tells a dry run the hours")
    args, fields = parser.parse_known_args()
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"jobs: must be 1 or more, got {args.jobs}.")
    output_dir = args.output_dir or Path("runs", args.table.stem)
    table = read_table(args.table, output_dir, fields)
    if args.dry_run:
        print(list_cells(table, args.seconds_per_step))
        return 0

    # 2. All that can be wrong before the first cell is trained
    check_writable("output_dir", output_dir)
    environments = slots(table, args.jobs)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    with only_one(output_dir) as lock:
        check_folder(table, output_dir)
        todo = [cell for cell in table.cells if read_result(cell) is None]
        for share in dict.fromkeys(cell.share for cell in todo):
            cell = next(cell for cell in todo if cell.share == share)
            load_model(cell.model, load_data(cell.data).id2label)

        # 3. The cells that are not done
        print(f"{len(todo)} of {len(table.cells)} cells to train, {len(environments)} at once, in {output_dir}")
        failed = run_cells(todo, table.gpus, environments, lock)

        # 4. The page, the picture and the scores
        results = {cell: result for cell in table.cells if (result := read_result(cell))}
        scores = {(cell.share, cell.row, cell.seed): result["scores"] for cell, result in results.items()}
        summary = Summary(table.rows, table.shares, table.baseline, scores)
        page = output_dir / f"{table.path.stem}.md"
        picture, cells = page.with_suffix(".png"), page.with_suffix(".csv")
        if results:
            plot_table(summary, table.title, picture)
            with replacing(cells) as partial:
                partial.write_text(scores_csv(results.values()), encoding="utf-8")
        hours = sum(result["seconds"] for result in results.values()) / 3600
        with replacing(page) as partial:
            partial.write_text(markdown_page(table, summary, failed, hours, picture.name), encoding="utf-8")
    beside = f", beside it are {picture.name} and {cells.name}" if results else ""
    print(f"\n{page.read_text(encoding='utf-8')}\nthe table is {page}{beside}")
    return 1 if failed else 0


def list_cells(table: Table, seconds_per_step: float | None) -> str:
    """Each cell with its command line, and how long all of them take as far as that is known."""
    lines = []
    for cell in table.cells:
        lines += [f"# {cell}", shlex.join(command(cell, table.gpus)), ""]
    steps = [cell.steps for cell in table.cells]
    if None in steps:
        return "\n".join([*lines, f"{len(steps)} cells; hours not known: some last num_train_epochs, not max_steps"])
    gpus = f" on {table.gpus} GPUs" if table.gpus > 1 else ""
    lines.append(f"{len(steps)} cells{gpus}, {sum(steps):,} steps")
    if seconds_per_step:
        hours = sum(steps) * seconds_per_step / 3600
        lines[-1] += f"; at {seconds_per_step:g} s a step {hours:,.1f} hours, {hours * table.gpus:,.1f} GPU-hours"
    return "\n".join(lines)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Whatever the signal, the cells end, too, and the exit code is that of Ctrl-C."""
    raise Interrupted(signal.SIGINT, "stopped; the same command goes on where it was")


if __name__ == "__main__":
    run_script(main)
