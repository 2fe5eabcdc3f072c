"""What the tests share: a small town drawn once, a tiny model, and caches that leave nothing behind."""

import functools
import os
import sys
from pathlib import Path

# One thread is quickest for tiny models, and repeats bit by bit. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some virtual machines announce Intel's AMX and cannot run it; bf16 would end in an illegal instruction.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))  # what draws the town

import datasets  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from town import draw_streets  # noqa: E402

from scl_hf import (  # noqa: E402
    DeepLabV3PlusConfig,
    DeepLabV3PlusForSemanticSegmentation,
    SemiSupervisedConfig,
    SemiSupervisedTrainer,
)
from scl_hf.data import (  # noqa: E402
    Augmentation,
    AugmentationArguments,
    DataArguments,
    EvaluationImages,
    LabeledCrops,
    UnlabeledCrops,
    load_data,
)

TINY = {
    "stem_channels": 8,
    "depths": [1, 1, 1, 1, 1, 1],
    "channels": [[8, 8], [8, 8], [16, 16], [16, 16], [8, 16, 32], [16, 32, 32]],
    "aspp_channels": 16,
    "aspp_dilations": [1, 2, 3],
    "skip_channels": 8,
    "decoder_channels": 16,
}


@pytest.fixture(autouse=True, scope="session")
def private_datasets_cache(tmp_path_factory):
    """`datasets` keeps its tables here, not in the user's cache."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets_cache")


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """A synthetic town in the Cityscapes folder layout: 5 labelled images, 6 further ones, 3 to evaluate on."""
    path = tmp_path_factory.mktemp("data") / "town"
    draw_streets(path, seed=3, width=96, height=48, num_train=5, num_train_extra=6, num_val=3, num_test=1)
    return path


@pytest.fixture(scope="session")
def town_data(town, private_datasets_cache):
    return load_data(DataArguments(dataset="cityscapes", data_dir=str(town)))


def tiny_model(id2label, seed=0):
    if seed is not None:
        torch.manual_seed(seed)
    label2id = {name: i for i, name in id2label.items()}
    return DeepLabV3PlusForSemanticSegmentation(DeepLabV3PlusConfig(**TINY, id2label=id2label, label2id=label2id))


def build_trainer(data, output_dir, model=None, **fields):
    """A trainer with a tiny model (or `model`) on `data`; `fields` are those of the config."""
    settings = {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 2,
        "max_steps": 3,
        "num_boxes": 4,
        "num_loss_boxes": 3,
        "ema_decay": 0.9,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    crops = Augmentation(AugmentationArguments(crop_size=[32, 32]))
    return SemiSupervisedTrainer(
        model=model or tiny_model(data.id2label),
        args=SemiSupervisedConfig(**(settings | fields)),
        train_dataset=LabeledCrops(data.labeled, crops, data.labeled.features["label"].table),
        unlabeled_dataset=UnlabeledCrops(data.unlabeled, crops),
        eval_dataset=EvaluationImages(
            data.evaluation, data.labeled.features["label"].table, crops.image_mean, crops.image_std
        ),
        palette=data.palette,
    )


@pytest.fixture
def make_trainer(town_data, tmp_path):
    """`build_trainer` on the town, writing to `tmp_path / "run"`."""
    return functools.partial(build_trainer, town_data, tmp_path / "run")
