"""Shared by the tests: the toy dataset, a tiny model, and caches that leave nothing behind."""

import functools
import gc
import importlib.util
import json
import os
import struct
import sys
import zlib
from pathlib import Path

# Before torch is imported: one thread is fastest for tiny models, and repeats bit for bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some virtual machines announce Intel's AMX but cannot run it; bf16 would end in an illegal instruction.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # for toy_dataset

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from toy_dataset import draw_toy_dataset  # noqa: E402

from scl_hf import (
    DeepLabV3PlusConfig,
    DeepLabV3PlusForSemanticSegmentation,
    SemiSupervisedConfig,
    SemiSupervisedTrainer,
)
from scl_hf.data import DataArguments, load_data  # noqa: E402

TINY = {
    "stem_channels": 8,
    "depths": [1, 1, 1, 1, 1, 1],
    "channels": [[8, 8], [8, 8], [16, 16], [16, 16], [8, 16, 32], [16, 32, 32]],
    "aspp_channels": 16,
    "aspp_dilations": [1, 2, 3],
    "skip_channels": 8,
    "decoder_channels": 16,
}
TINY_MOBILEVIT = {
    "hidden_sizes": [8, 16, 16],
    "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32],
    "aspp_out_channels": 16,
    "atrous_rates": [1, 2, 3],
    "image_size": 64,
    "num_attention_heads": 2,
}

# Fields of a recipe for a run of the scripts that takes a moment
SMALL_RUN = {
    "model_config": TINY,
    "crop_size": [32, 32],
    "num_boxes": 4,
    "num_loss_boxes": 4,
    "semi_supervised_start_step": 0,
    "semi_supervised_ramp_steps": 0,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
}


@pytest.fixture(autouse=True, scope="session")
def private_datasets_cache(tmp_path_factory):
    """Keeps the tables of `datasets` out of the user's cache."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets_cache")


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory):
    """The toy dataset in the Cityscapes folder layout: 5 labeled images, 6 unlabeled ones, 3 to evaluate on."""
    path = tmp_path_factory.mktemp("data") / "toy_dataset"
    draw_toy_dataset(path, seed=3, width=96, height=48, num_train=5, num_train_extra=6, num_val=3, num_test=1)
    return path


@pytest.fixture(scope="session")
def toy_data(toy_dataset, private_datasets_cache):
    return load_data(DataArguments(dataset="cityscapes", data_dir=str(toy_dataset)))


def load_script(path):
    """Loads a script as a new module, without running it."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def write_png(path, width, height, bits, kind, rows):
    """Writes a PNG of any header, also of one that does not fit `rows`."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


@pytest.fixture
def figures(monkeypatch):
    """Collects the figures that are drawn."""
    from matplotlib.figure import Figure

    kept, init = [], Figure.__init__
    monkeypatch.setattr(
        Figure, "__init__", lambda self, *args, **kwargs: kept.append(self) or init(self, *args, **kwargs)
    )
    return kept


def tiny_model(id2label, seed=0):
    if seed is not None:
        torch.manual_seed(seed)
    label2id = {name: i for i, name in id2label.items()}
    return DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(**TINY, id2label=id2label, label2id=label2id))


def build_trainer(data, output_dir, model=None, **fields):
    """Builds a trainer with a tiny model (or `model`) on `data`; `fields` are those of the config."""
    settings = {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "consistency_weight": 20,
        "structured_consistency_weight": 3,
        "semi_supervised_start_step": 0,
        "semi_supervised_ramp_steps": 0,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "learning_rate": 0.01,
        "weight_decay": 0.001,
        "hue": 0.25,
        "eval_strategy": "no",
        "per_device_train_batch_size": 2,
        "max_steps": 3,
        "crop_size": [32, 32],
        "class_uniform_share": 0.0,
        "num_boxes": 4,
        "num_loss_boxes": 3,
        "ema_decay": 0.9,
        "save_strategy": "no",
        "save_total_limit": None,
        "logging_steps": 1,
    }
    return SemiSupervisedTrainer(
        model=model or tiny_model(data.id2label),
        args=SemiSupervisedConfig(**(settings | fields)),
        train_dataset=data.labeled,
        unlabeled_dataset=data.unlabeled,
        eval_dataset=data.evaluation,
        coarse_dataset=data.coarse,
        palette=data.palette,
    )


@pytest.fixture
def make_trainer(toy_data, tmp_path):
    """`build_trainer` on the toy dataset, with output in `tmp_path / "run"`."""
    return functools.partial(build_trainer, toy_data, tmp_path / "run")


@pytest.fixture
def own_folder(tmp_path):
    """A user's own dataset: 4 training images, 2 to evaluate on, 3 classes."""
    root, rng = tmp_path / "mine", np.random.default_rng(0)
    for split, number in (("train", 4), ("validation", 2)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        for i in range(number):
            label = rng.integers(0, 3, (4, 6)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
            image = (label[..., None] * 80 + rng.integers(0, 40, (*label.shape, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"frame{i}.png")
            Image.fromarray(label).save(root / split / "labels" / f"frame{i}.png")
    (root / "id2label.json").write_text(json.dumps({"0": "grass", "1": "path", "2": "sky"}))
    return root


def pytest_collection_finish():
    """Exempts imported modules, most of the objects, from the garbage collection that each `Trainer.train` starts."""
    gc.collect()
    gc.freeze()
