"""The global sequence of samples: the same on any number of processes and workers, and after a resume on another."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate import debug_launcher
from conftest import build_trainer, tiny_model

from scl_hf.data import ClassIndex, DataArguments, LabeledDraws, load_data

GLOBAL_BATCH = 4


def train(town, out, workers, world_size, resume_from=None, global_batch=GLOBAL_BATCH):
    """Trains for 5 steps, 2 of them an epoch, and writes what this process saw to `out`: a hash a sample, by step."""
    data = load_data(DataArguments(dataset="cityscapes", data_dir=str(town), use_coarse_labels=True))
    trainer = build_trainer(
        data,
        out,
        tiny_model(data.id2label),
        per_device_train_batch_size=global_batch // world_size,
        dataloader_num_workers=workers,
        ddp_backend="gloo" if world_size > 1 else None,
        max_steps=5,
        save_strategy="steps",
        save_steps=3,
    )
    assert trainer.args.world_size == world_size
    table, names = data.labeled.features["label"].table, data.id2label
    with trainer.args.main_process_first():
        index = ClassIndex.build(data.labeled, data.coarse, table, names, 32, [0, 2, 10], skip_corrupt=True)
    trainer.labeled_draws = LabeledDraws(len(data.labeled), 1, index, class_uniform_share=0.5, coarse_until_epoch=2)
    crops = trainer.train_dataset
    crops.labeled.coarse, crops.labeled.skip_corrupt, crops.unlabeled.skip_corrupt = data.coarse, True, True

    steps, loss = [], trainer.compute_loss

    def compute_loss(model, inputs, **kwargs):
        tensors = {name: value for name, value in sorted(inputs.items()) if name != "skipped"}
        steps.append([sample_hash(tensors, i) for i in range(len(inputs["labels"]))])
        return loss(model, inputs, **kwargs)

    trainer.compute_loss = compute_loss
    skipped = trainer.train(resume_from_checkpoint=resume_from).metrics["skipped_images"]
    seen = {"steps": steps, "skipped_images": skipped}
    Path(out, f"rank-{trainer.args.process_index}.json").write_text(json.dumps(seen))
    return trainer


def sample_hash(tensors, i):
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode() + value[i].contiguous().numpy().tobytes())
    return digest.hexdigest()


def global_sequence(out, world_size):
    """What all processes saw, step by step in the order of their ranks, and the number of files they skipped."""
    ranks = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(world_size)]
    (skipped,) = {rank["skipped_images"] for rank in ranks}
    return [sum(parts, []) for parts in zip(*(rank["steps"] for rank in ranks), strict=True)], skipped


def train_all(runs):
    for run in runs:
        trainer = train(**run)
    # A process that leaves early would take the others' connections with it.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


@pytest.fixture(scope="module")
def damaged_town(town, tmp_path_factory):
    """The town with one image and one label of the training split cut short."""
    path = tmp_path_factory.mktemp("damaged") / "town"
    shutil.copytree(town, path)
    images, labels = sorted(path.glob("leftImg8bit/train/*/*.png")), sorted(path.glob("gtFine/train/*/*labelIds.png"))
    for file in (images[1], labels[3]):
        file.write_bytes(file.read_bytes()[:60])
    return path


def test_any_number_of_processes_sees_the_same_samples(damaged_town, tmp_path, caplog):
    one, two, four = (tmp_path / name for name in ("one", "two", "four"))
    train(damaged_town, one, workers=0, world_size=1)
    expected = global_sequence(one, 1)
    steps, skipped = expected
    assert [len(step) for step in steps] == [GLOBAL_BATCH] * 5 and len(set(sum(steps, []))) == 5 * GLOBAL_BATCH
    assert skipped == 2
    assert "2 corrupt files were skipped (" in caplog.text

    # Whole runs, and runs that go on in the middle of the second epoch from another number of processes' checkpoint.
    def runs(out, other, world_size, workers):
        common = {"town": str(damaged_town), "world_size": world_size}
        rest = {"out": f"{out}-rest", "workers": 2 - workers, "resume_from": f"{other}/checkpoint-3"}
        return [common | {"out": str(out), "workers": workers}, common | rest]

    launches = [[2, runs(two, one, 2, workers=2)], [4, runs(four, two, 4, workers=0)]]
    # A fresh interpreter forks them: none of them imports torch for itself, nor has this one's threads.
    result = subprocess.run(
        [sys.executable, __file__, json.dumps(launches)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert global_sequence(two, 2) == global_sequence(four, 4) == expected
    assert global_sequence(Path(f"{two}-rest"), 2)[0] == global_sequence(Path(f"{four}-rest"), 4)[0] == steps[3:]
    assert result.stderr.count("2 corrupt files were skipped (") == 2  # said by the main process alone
    train(damaged_town, tmp_path / "rest", workers=2, world_size=1, resume_from=str(four / "checkpoint-3"))
    assert global_sequence(tmp_path / "rest", 1)[0] == steps[3:]


if __name__ == "__main__":
    for world_size, runs in json.loads(sys.argv[1]):
        debug_launcher(train_all, (runs,), num_processes=world_size)
