"""A checkpoint to go on from, out of a repository that a run was pushed to."""

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from ..errors import InputError
from ..files import is_disk_full
from ..hub import LAST_CHECKPOINT, quiet_hub, reason_of
from .manifest import MANIFEST_NAME, PARTIAL_DIR, clear_partial, find_problem, publish, step_of


def fetch_checkpoint(repo: str, revision: str | None, output_dir: Path, token: str | None = None) -> Path:
    """
    Brings the newest checkpoint of a revision of a repository into `output_dir`, under the name that it had. It is
    verified before it gets that name. One that is there already is not fetched again, and another is not replaced.
    """
    where = f"resume_from_checkpoint {repo}" + (f"@{revision}" if revision else "")
    partial = output_dir / PARTIAL_DIR / "hub"
    try:
        with quiet_hub():
            return _fetch(HfApi(token=token), where, repo, revision, output_dir, partial)
    except InputError:
        raise
    except RevisionNotFoundError as error:
        raise InputError(f"{where}: there is no such branch, tag or commit. Name another one.") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{where}: there is no such folder, and on the Hub no such repository of a model that the token may read. "
            "Correct the name, or log in by `hf auth login`."
        ) from error
    except Exception as error:
        if is_disk_full(error):
            raise
        raise InputError(
            f"{where}: there is no such folder, and from the Hub it cannot be fetched: {reason_of(error, token)}. "
            "Give the command again, or name a checkpoint folder."
        ) from error
    finally:
        clear_partial(output_dir)


def _fetch(api: HfApi, where: str, repo: str, revision: str | None, output_dir: Path, partial: Path) -> Path:
    info = api.repo_info(repo, revision=revision)
    sealed = [file.rfilename.split("/")[0] for file in info.siblings if file.rfilename.endswith(f"/{MANIFEST_NAME}")]
    found = [name for name in sealed if name == LAST_CHECKPOINT or step_of(name) >= 0]
    if not found:
        raise InputError(
            f"{where}: holds no checkpoint to go on from, which hub_strategy checkpoint or all_checkpoints push. Name"
            " another one, or start a new run with its weights by --model_name_or_path."
        )

    def fetch(name: str) -> Path:
        return Path(api.hf_hub_download(repo, name, revision=info.sha, local_dir=partial))

    steps = {name: step_of(name) for name in found}
    if LAST_CHECKPOINT in steps:
        state = fetch(f"{LAST_CHECKPOINT}/{TRAINER_STATE_NAME}")
        steps[LAST_CHECKPOINT] = TrainerState.load_from_json(str(state)).global_step
    newest = max(steps, key=steps.get)
    folder = output_dir / f"checkpoint-{steps[newest]}"
    if os.path.lexists(folder) and find_problem(folder) is None:
        if (folder / MANIFEST_NAME).read_bytes() == fetch(f"{newest}/{MANIFEST_NAME}").read_bytes():
            return folder
        raise InputError(
            f"{where}: its {folder.name} is another one than {folder}. Name another --output_dir, or go on from the"
            " folder with --resume_from_checkpoint true."
        )
    api.snapshot_download(repo, revision=info.sha, allow_patterns=f"{newest}/*", local_dir=partial)
    if flaw := find_problem(partial / newest):
        raise InputError(f"{where}: {newest}: {flaw}. Name an older revision.")
    publish(partial / newest, folder)
    return folder
