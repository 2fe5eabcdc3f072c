"""The global sequence of samples: the same on any number of processes and workers, and after a resume on another."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from accelerate import debug_launcher
from conftest import build_trainer, tiny_model
from PIL import Image

from scl_hf.data import DataArguments, load_data

GLOBAL_BATCH = 4


def train(toy_dataset, out, workers, world_size, resume_from=None, global_batch=GLOBAL_BATCH, save_steps=3):
    """
    Trains for 5 steps, 2 of them an epoch, and writes what this process saw to `out`, a hash a sample, by step; and a
    hash of what it ends with.
    """
    data = load_data(DataArguments(dataset="cityscapes", data_dir=str(toy_dataset), use_coarse_labels=True))
    trainer = build_trainer(
        data,
        out,
        tiny_model(data.id2label),
        per_device_train_batch_size=global_batch // world_size,
        dataloader_num_workers=workers,
        ddp_backend="gloo" if world_size > 1 else None,
        # Else DDP adds up the first step's gradients in another order, of which the last bit of three or more depends.
        ddp_find_unused_parameters=world_size > 2,
        max_steps=5,
        save_strategy="steps",
        save_steps=save_steps,
        class_uniform_share=0.5,
        class_uniform_tile=32,
        coarse_classes=[0, 2, 10],
        coarse_until_epoch=2,
        skip_corrupt=True,
    )
    assert trainer.args.world_size == world_size

    steps, loss = [], trainer.compute_loss

    def compute_loss(model, inputs, **kwargs):
        tensors = {name: value for name, value in sorted(inputs.items()) if name != "skipped"}
        steps.append([sample_hash(tensors, i) for i in range(len(inputs["labels"]))])
        return loss(model, inputs, **kwargs)

    trainer.compute_loss = compute_loss
    skipped = trainer.train(resume_from_checkpoint=resume_from).metrics["skipped_images"]
    student, teacher = trainer.model.state_dict(), trainer.teacher.module.state_dict()
    momenta = {str(i): state["momentum_buffer"] for i, state in trainer.optimizer.state_dict()["state"].items()}
    # The student's running statistics are each process's own until the next step, which begins with those of rank 0.
    parts = [{name: value for name, value in part.items() if "running" not in name} for part in (student, momenta)]
    bits = [tensors_hash(part) for part in (*parts, teacher)]
    seen = {"steps": steps, "skipped_images": skipped, "bits": bits}
    Path(out, f"rank-{trainer.args.process_index}.json").write_text(json.dumps(seen))
    return trainer


def tensors_hash(tensors):
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def sample_hash(tensors, i):
    sample = {name: value[i] for name, value in tensors.items()}
    sample["box_pixels"] = sample["box_pixels"][sample["box_pixels"] >= 0]  # filled up to the largest of the batch
    return tensors_hash(sample)


def bits_of(out, world_size):
    """A hash of student, momenta and teacher at the end, the same in all processes."""
    ranks = [json.loads((Path(out) / f"rank-{rank}.json").read_text())["bits"] for rank in range(world_size)]
    assert all(rank == ranks[0] for rank in ranks)
    return ranks[0]


def global_sequence(out, world_size):
    """What all processes saw, step by step in the order of their ranks, and the number of files they skipped."""
    ranks = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(world_size)]
    (skipped,) = {rank["skipped_images"] for rank in ranks}
    return [sum(parts, []) for parts in zip(*(rank["steps"] for rank in ranks), strict=True)], skipped


def train_all(runs):
    for run in runs:
        trainer = train_frozen(run["out"], run["world_size"]) if run.pop("frozen", False) else train(**run)
    # A process that leaves early would take the others' connections with it.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def launch(launches, tmp_path):
    """Runs `train_all` on some processes, one launch after the other."""
    # A fresh interpreter forks them: none of them imports torch for itself, nor has this one's threads.
    result = subprocess.run(
        [sys.executable, __file__, json.dumps(launches)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def damaged_dataset(toy_dataset, tmp_path_factory):
    """The toy dataset with one image and one label of the training split cut short."""
    path = tmp_path_factory.mktemp("damaged") / "toy_dataset"
    shutil.copytree(toy_dataset, path)
    images, labels = sorted(path.glob("leftImg8bit/train/*/*.png")), sorted(path.glob("gtFine/train/*/*labelIds.png"))
    for file in (images[1], labels[3]):
        file.write_bytes(file.read_bytes()[:60])
    return path


def test_any_number_of_processes_sees_the_same_samples(damaged_dataset, tmp_path, caplog):
    one, two, four = (tmp_path / name for name in ("one", "two", "four"))
    train(damaged_dataset, one, workers=0, world_size=1)
    expected = global_sequence(one, 1)
    steps, skipped = expected
    assert [len(step) for step in steps] == [GLOBAL_BATCH] * 5 and len(set(sum(steps, []))) == 5 * GLOBAL_BATCH
    assert skipped == 2
    assert "corrupt files skipped: 2 (" in caplog.text

    # Complete runs, and runs resumed within the second epoch from a checkpoint of another number of processes.
    def runs(out, other, world_size, workers):
        common = {"toy_dataset": str(damaged_dataset), "world_size": world_size}
        rest = {"out": f"{out}-rest", "workers": 2 - workers, "resume_from": f"{other}/checkpoint-3"}
        return [common | {"out": str(out), "workers": workers}, common | rest]

    launches = [[2, runs(two, one, 2, workers=2)], [4, runs(four, two, 4, workers=0)]]
    # A run resumed on its own number of processes ends with the same bits.
    again = {"toy_dataset": str(damaged_dataset), "world_size": 2, "out": f"{two}-again", "workers": 0}
    launches[0][1].append(again | {"resume_from": f"{two}/checkpoint-3"})
    result = launch(launches, tmp_path)
    assert global_sequence(two, 2) == global_sequence(four, 4) == expected
    assert global_sequence(Path(f"{two}-rest"), 2)[0] == global_sequence(Path(f"{four}-rest"), 4)[0] == steps[3:]
    assert result.stderr.count("corrupt files skipped: 2 (") == 2  # said by the main process alone
    assert bits_of(f"{two}-again", 2) == bits_of(two, 2)
    train(damaged_dataset, tmp_path / "rest", workers=2, world_size=1, resume_from=str(four / "checkpoint-3"))
    assert global_sequence(tmp_path / "rest", 1)[0] == steps[3:]


@pytest.mark.slow
def test_cut_at_any_step_on_any_number_of_processes(toy_dataset, tmp_path):
    """The same samples on 1, 2 and 4 processes, and the same bits where their number stays."""
    sizes, cuts = (1, 2, 4), range(1, 5)
    complete = [
        [
            size,
            [
                {
                    "toy_dataset": str(toy_dataset),
                    "out": str(tmp_path / f"{size}"),
                    "workers": 0,
                    "world_size": size,
                    "save_steps": 1,
                }
            ],
        ]
        for size in sizes
    ]
    rest = [
        [
            size,
            [
                complete[0][1][0]
                | {"world_size": size, "out": str(tmp_path / f"{before}-{cut}-{size}"), "save_steps": 5}
                | {"resume_from": str(tmp_path / f"{before}/checkpoint-{cut}")}
                for before in sizes
                for cut in cuts
            ],
        ]
        for size in sizes
    ]
    launch(complete + rest, tmp_path)
    expected, _ = global_sequence(tmp_path / "1", 1)
    unequal = []
    for size in sizes:
        assert global_sequence(tmp_path / f"{size}", size)[0] == expected
        for before in sizes:
            for cut in cuts:
                out = tmp_path / f"{before}-{cut}-{size}"
                assert global_sequence(out, size)[0] == expected[cut:]
                if before == size and bits_of(out, size) != bits_of(tmp_path / f"{size}", size):
                    unequal.append((size, cut))
    print(f"\n{len(sizes) ** 2 * len(cuts)} resumes, unequal bits on the same number of processes: {unequal}")
    assert not unequal


def train_frozen(out, world_size):
    """20 steps with BatchNorm in evaluation mode, on images all of whose pixels count."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (8, 6, 6)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    images = [Image.fromarray(np.stack([i * 80 + rng.integers(0, 40, i.shape, np.uint8)] * 3, -1)) for i in ids]
    columns = {"image": images, "label": [Image.fromarray(i) for i in ids]}
    features = datasets.Features(image=datasets.Image(), label=datasets.Image())
    labeled = datasets.Dataset.from_dict(columns, features=features)
    unlabeled = labeled.select_columns("image")
    data = SimpleNamespace(labeled=labeled, unlabeled=unlabeled, evaluation=None, coarse=None, palette=None)
    model = tiny_model({0: "a", 1: "b", 2: "c"})
    # Of the class: the teacher is a copy of the student. This process trains nothing else.
    type(model).train = lambda self, mode=True: torch.nn.Module.train(self, False)
    model.eval()
    batch = {"per_device_train_batch_size": 4 // world_size, "ddp_backend": "gloo" if world_size > 1 else None}
    # Small steps: large ones would magnify the last bit, in which sums of two halves differ, to anything.
    batch |= {"learning_rate": 1e-3, "consistency_weight": 1.0, "structured_consistency_weight": 1.0}
    trainer = build_trainer(data, out, model, **batch, max_steps=20, scale_range=[1.0, 1.5])
    trainer.train()
    assert trainer.args.world_size == world_size
    if trainer.is_world_process_zero():
        both = {"student": trainer.model, "teacher": trainer.teacher.module}
        torch.save({name: model.state_dict() for name, model in both.items()}, f"{out}.pt")
    return trainer


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    launch(
        [[size, [{"frozen": True, "out": str(tmp_path / f"{size}"), "world_size": size}]] for size in (1, 2)], tmp_path
    )
    one, two = (torch.load(tmp_path / f"{size}.pt", weights_only=True) for size in (1, 2))
    begun = tiny_model({0: "a", 1: "b", 2: "c"}).state_dict()
    for name in ("student", "teacher"):
        apart = max(float((value - two[name][key]).abs().max()) for key, value in one[name].items() if value.numel())
        moved = max(float((value - begun[key]).abs().max()) for key, value in one[name].items() if value.numel())
        print(f"\n{name}: apart by {apart:.1e} at most, moved by {moved:.1e}")
        assert apart < 1e-5 < moved


ONE_DIES = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from conftest import build_trainer
from transformers import TrainerCallback
from scl_hf.data import DataArguments, load_data

class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

data = load_data(DataArguments(dataset="cityscapes", data_dir=sys.argv[1]))
trainer = build_trainer(data, sys.argv[2], ddp_backend="gloo", max_steps=1000)
trainer.add_callback(Die())
trainer.train()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "torch.distributed.run --standalone --nproc_per_node 2",
        "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
        " --dynamo_backend no",
    ],
)
def test_a_process_that_dies_ends_the_job_with_a_message(toy_dataset, tmp_path, launcher):
    script = tmp_path / "dies.py"
    script.write_text(ONE_DIES.format(tests=str(Path(__file__).parent)))
    arguments = [str(script), str(toy_dataset), str(tmp_path / "run")]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", *launcher.split(), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    print(f"\nended after {time.monotonic() - began:.0f} s, the start included")
    assert result.returncode != 0
    assert "Signal 9 (SIGKILL)" in result.stderr and "local_rank: 1" in result.stderr.replace("  ", " ")


if __name__ == "__main__":
    for world_size, runs in json.loads(sys.argv[1]):
        debug_launcher(train_all, (runs,), num_processes=world_size)
