"""How often a training step waits for the device, counted on a simulated GPU, which lies beside the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SIMULATOR = Path(__file__).parents[2] / "shared/sim_cuda"
RUN = """
import json, sys
import simcuda
from conftest import build_trainer
from scl_hf import SemiSupervisedConfig
from scl_hf.data import DataArguments, load_data
from transformers import TrainerCallback

class Count(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        simcuda.SYNCS.clear()

    def on_step_end(self, args, state, control, **kwargs):
        counts.append({f"{why} {place}": number for (why, place), number in simcuda.SYNCS.items()})

def on_cuda(args):
    made(args)
    args.mixed_precision = sys.argv[3]
    simcuda.use_cuda(args)

counts, made = [], SemiSupervisedConfig.__post_init__
SemiSupervisedConfig.__post_init__ = on_cuda
data = load_data(DataArguments(dataset="cityscapes", data_dir=sys.argv[1]))
simcuda.patch()
with simcuda.SimMode():
    trainer = build_trainer(data, sys.argv[2], max_steps=4, accelerator_config={"non_blocking": True})
    trainer.add_callback(Count())
    trainer.train()
print(json.dumps(counts))
"""


@pytest.mark.slow
@pytest.mark.skipif(not (SIMULATOR.is_dir() and shutil.which("g++")), reason="no simulator, or no compiler")
@pytest.mark.parametrize(("precision", "of_the_scaler"), [("no", 0), ("bf16", 0), ("fp16", 1)])
def test_the_host_waits_once_a_step(toy_dataset, tmp_path, precision, of_the_scaler):
    guard = str(tmp_path / "guard.so")
    environment = os.environ | {"GUARD_SO": guard, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(SIMULATOR), str(Path(__file__).parent), *sys.path])
    subprocess.run(["bash", SIMULATOR / "build.sh", sys.executable], env=environment, check=True)
    command = [sys.executable, "-c", RUN, str(toy_dataset), str(tmp_path / "run"), precision]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    for step in json.loads(result.stdout.splitlines()[-1])[1:]:
        # Not waited for: copies of a batch, here from memory that is not pinned, and numbers of 64 bits
        waits = {
            place: number for place, number in step.items() if not place.startswith(("copy to device, non", "float64"))
        }
        scaler = sum(number for place, number in waits.items() if "grad_scaler" in place)
        assert scaler == of_the_scaler and sum(waits.values()) - scaler == 1, waits
