"""
Trains a table of runs, rows × label shares × seeds, each one a process of scripts/train.py:

    python scripts/reproduce.py recipes/tables/method.yaml --data_dir CAMVID
    python scripts/reproduce.py recipes/tables/cityscapes_table2.yaml --dry_run true --seconds_per_step 1.5

Further `--field value` are fields of train.py for all runs; the table's rows override them. After any stop the same
command resumes: it keeps finished runs, and resumes an unfinished one from its checkpoint.
Each run gets a result.json and its logs. A page of Markdown, a figure and the scores of all runs as CSV, named after
the table, are written anew whenever a run has ended. The figure of a table whose shares are numbers of labels
("10 labels", three or more) shows the scores over that number.
Exit code 1: a run failed and the others are done; the same command tries it again. 2: wrong input. 130: stopped.
"""

import argparse
import shlex
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from reproduction.figure import plot_table
from reproduction.report import markdown_page, scores_csv
from reproduction.running import check_folder, command, only_one, read_result, run_all, slots
from reproduction.summary import Summary
from reproduction.table import Run, Table, read_table
from transformers.hf_argparser import string_to_bool

from scl_hf.checkpointing.signals import Interrupted
from scl_hf.cli import recipe_file, run_script
from scl_hf.data import load_data
from scl_hf.errors import InputError
from scl_hf.files import check_writable, write_text
from scl_hf.pretrained import load_model


def main() -> int:
    # 1. The table and the arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", type=recipe_file, metavar="TABLE.yaml", help="one of recipes/tables, or your own")
    parser.add_argument("--output_dir", type=Path, metavar="DIR", help="default: runs/<name of the table>")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once; default: one for each GPU or core")
    parser.add_argument("--dry_run", type=string_to_bool, default=False, metavar="true|false", help="only list runs")
    parser.add_argument("--seconds_per_step", type=float, metavar="S", help="a dry run tells the hours")
    args, fields = parser.parse_known_args()
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"jobs: must be 1 or more, got {args.jobs}.")
    output_dir = args.output_dir or Path("runs", args.table.stem)
    table = read_table(args.table, output_dir, fields)
    if args.dry_run:
        print(list_runs(table, args.seconds_per_step))
        return 0

    # 2. All checks, before the first run is trained
    check_writable("output_dir", output_dir)
    environments = slots(table, args.jobs)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    with only_one(output_dir) as lock:
        check_folder(table, output_dir)
        todo = [run for run in table.runs if read_result(run) is None]
        for share in dict.fromkeys(run.share for run in todo):
            run = next(run for run in todo if run.share == share)
            load_model(run.model, load_data(run.data).id2label)

        # 3. The runs that are left, and what they show, anew whenever one has ended
        print(f"{len(todo)} of {len(table.runs)} runs to train, {len(environments)} at once, in {output_dir}")
        report = partial(write_page, table, output_dir)
        failed = run_all(todo, table.gpus, environments, lock, report)
        page, *others = report(failed)
    beside = f", beside it are {' and '.join(path.name for path in others)}" if others else ""
    print(f"\n{page.read_text(encoding='utf-8')}\nthe table is {page}{beside}")
    return 1 if failed else 0


def write_page(table: Table, output_dir: Path, failed: Mapping[Run, str]) -> list[Path]:
    """Writes the page, and the figure and the scores if there are any; returns the files."""
    results = {run: result for run in table.runs if (result := read_result(run))}
    scores = {(run.share, run.row, run.seed): result["scores"] for run, result in results.items()}
    summary = Summary(table.rows, table.shares, table.baseline, scores)
    page = output_dir / f"{table.path.stem}.md"
    figure, scores_file = page.with_suffix(".png"), page.with_suffix(".csv")
    if results:
        plot_table(summary, table.title, figure)
        write_text(scores_file, scores_csv(results.values()))
    seconds = [result["seconds"] for result in results.values()]
    write_text(page, markdown_page(table, summary, failed, seconds, figure.name))
    return [page, figure, scores_file] if results else [page]


def list_runs(table: Table, seconds_per_step: float | None) -> str:
    """Returns each run with its command line, and how long all of them take, if the recipes say so."""
    lines = []
    for run in table.runs:
        lines += [f"# {run}", shlex.join(command(run, table.gpus)), ""]
    steps = [run.steps for run in table.runs]
    if None in steps:
        return "\n".join(
            [*lines, f"{len(steps)} runs; hours not known: some count in num_train_epochs, not in max_steps"]
        )
    gpus = f" on {table.gpus} GPUs" if table.gpus > 1 else ""
    lines.append(f"{len(steps)} runs{gpus}, {sum(steps):,} steps")
    if seconds_per_step:
        hours = sum(steps) * seconds_per_step / 3600
        lines[-1] += f"; at {seconds_per_step:g} s a step {hours:,.1f} hours, {hours * table.gpus:,.1f} GPU-hours"
    return "\n".join(lines)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the runs at any signal, with the exit code of Ctrl-C."""
    raise Interrupted(signal.SIGINT, "stopped; the same command resumes")


if __name__ == "__main__":
    run_script(main)
