"""A run's folder and its repository on the Hub: what goes there, and when."""

import contextlib
import json
import shlex
import shutil
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from tqdm.auto import tqdm
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy

from .checkpointing import signals
from .checkpointing.manifest import MANIFEST_NAME, checkpoints_in, step_of
from .errors import InputError, check_field, first_line
from .files import replacing, write_json
from .hub import LOG_IN, check_token, is_refusal, quiet_hub, reason_of, status_of

SETTINGS_NAME = "_hub.json"  # in a run's folder: where it is pushed to. What begins with _ is pushed nowhere itself
LAST_CHECKPOINT = "last-checkpoint"  # what upstream's `hub_strategy` "checkpoint" calls the newest one
# Of a checkpoint, what its model is; it is at the root of the repository, too.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*config.json", "*.py", "training_args.bin")
# Panels, in TensorBoard's files too, and overlays, if predict.py writes into the run's folder, are pictures of the
# data: not every license lets them be passed on. The card's own panel, at the root, is there where it may be.
NOT_PUSHED = ["_*", ".*", "*/.*", f"{PREFIX_CHECKPOINT_DIR}-*", "predictions/*", "panels/*", "*.tfevents.*"]
# Seconds between the attempts of a push. They are for what takes a while: huggingface_hub itself repeats most requests
# within half a minute.
PAUSES = (5, 30, 120)


@dataclass
class HubArguments:
    """
    Where a run is pushed to. By default what the run was told; of one that was not to be pushed, to no repository.

    Args:
        hub_model_id (`str`, *optional*):
            The repository, as user/name or a name alone. It is created where there is none.
        hub_private_repo (`bool`, *optional*):
            Whether a repository that is created is private. By default as the account or organization has it.
        hub_strategy (`str`, *optional*):
            What goes there besides the model: end and every_save nothing, checkpoint the newest checkpoint,
            all_checkpoints all of them.
        hub_revision (`str`, *optional*):
            The branch. It is created where there is none; main by default.
    """

    hub_model_id: str | None = None
    hub_private_repo: bool | None = None
    hub_strategy: str | None = None
    hub_revision: str | None = None

    def __post_init__(self):
        strategies = [strategy.value for strategy in HubStrategy]
        known = self.hub_strategy is None or self.hub_strategy in strategies
        check_field(self, "hub_strategy", known, f"one of {', '.join(strategies)}")


def settings_of(folder: Path, given: HubArguments) -> HubArguments:
    """Where a run's folder goes: what is given, and the rest as the run had it."""
    path, recorded = folder / SETTINGS_NAME, {}
    if path.exists():
        try:
            recorded = asdict(HubArguments(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            remedy = "Remove it, and give --hub_model_id."
            raise InputError(f"{path}: cannot be read ({first_line(error)}). {remedy}") from error
    settings = HubArguments(**recorded | {name: value for name, value in asdict(given).items() if value is not None})
    if settings.hub_model_id is None:
        raise InputError(f"hub_model_id: is missing, for {folder} was not to be pushed. Add --hub_model_id user/name.")
    return settings


def has_ended(folder: Path) -> bool:
    """Whether the model at the root of a run's folder is that of its end: no checkpoint is newer."""
    newest = max(checkpoints_in(folder), key=step_of, default=None)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] >= step_of(newest or ""):
            return True
    written = max((path.stat().st_mtime for path in folder.glob("*.safetensors")), default=0)
    return newest is None or written >= newest.stat().st_mtime


def say(line: str) -> None:
    """On standard error, below a progress bar."""
    with contextlib.suppress(OSError):  # a terminal that is gone stops no training
        tqdm.write(line, file=sys.stderr)


class Push:
    """
    Brings to the Hub what it is to have of a run's folder: at the root the model, its code, card and pictures; by the
    strategy checkpoints. All of it each time, so that whatever failed before is made up for; what is there already is
    not sent again.

    [`start`] does so in the background: a push that fails is tried again after growing pauses, or when the next one
    is due, and stops nothing.
    """

    def __init__(self, folder: str | Path, settings: HubArguments, token: str | None = None):
        self.folder, self.settings, self.token = Path(folder), settings, token
        self.repo: str | None = None  # with its namespace, once the Hub has said it
        self._checkpoint: Path | None = None  # the newest that this run has saved
        self._sent: set[str] = set()  # checkpoints that are there
        self._due: str | None = None  # message of the push that comes next
        self._thread: threading.Thread | None = None
        self._lock, self._hurry = threading.Lock(), threading.Event()
        self._said: str | None = None

    def prepare(self) -> str:
        """
        The repository's name, whole if the Hub has said it. Before a run: a wrong name and a token without rights are
        refused, a Hub that cannot be reached is not waited for.
        """
        check_token(self.token)
        try:
            with quiet_hub():
                self.open()
        except Exception as error:
            if is_refusal(error):
                raise self.refusal(error) from error
            self._say(reason_of(error, self.token), "The run goes on, and tries again later.")
        write_json(self.folder / SETTINGS_NAME, asdict(self.settings))
        return self.repo or self.settings.hub_model_id

    def open(self) -> None:
        """Creates what is not there, and looks whether the token may write."""
        settings, api = self.settings, HfApi(token=self.token)
        repo = api.create_repo(settings.hub_model_id, private=settings.hub_private_repo, exist_ok=True).repo_id
        api.auth_check(repo, write=True)  # `create_repo` is content with one that may be read
        if settings.hub_revision and not settings.hub_revision.startswith("refs/"):
            api.create_branch(repo, branch=settings.hub_revision, exist_ok=True)
        self.repo = repo

    def push(self, message: str, take_model: bool = False) -> CommitInfo:
        """One attempt. `take_model` puts the newest checkpoint's model at the root first."""
        if self.repo is None:
            self.open()
        checkpoints = [path for path in checkpoints_in(self.folder) if (path / MANIFEST_NAME).is_file()]
        newest = self._checkpoint or (checkpoints[-1] if checkpoints else None)
        if take_model and newest is not None:
            for path in (path for pattern in MODEL_FILES for path in newest.glob(pattern)):
                with replacing(self.folder / path.name) as partial:
                    shutil.copyfile(path, partial)
        where = {"repo_id": self.repo, "revision": self.settings.hub_revision}
        api = HfApi(token=self.token)
        commit = api.upload_folder(
            folder_path=self.folder, commit_message=message, ignore_patterns=list(NOT_PUSHED), **where
        )
        strategy = HubStrategy(self.settings.hub_strategy or HubStrategy.END)
        due = {}
        if strategy == HubStrategy.CHECKPOINT and newest is not None:
            due = {LAST_CHECKPOINT: newest}
        elif strategy == HubStrategy.ALL_CHECKPOINTS:
            due = {path.name: path for path in checkpoints}
        for name, path in due.items():
            if str(path) not in self._sent:
                # Without what an older checkpoint has left there: its manifest would not hold.
                options = {"path_in_repo": name, "delete_patterns": "*"}
                api.upload_folder(folder_path=path, commit_message=f"{message}, checkpoint", **where, **options)
                self._sent.add(str(path))
        return commit

    def try_hard(self, message: str, take_model: bool = False) -> CommitInfo:
        """[`push`], again after each of the pauses where that may help. Raises what the last attempt has met."""
        with quiet_hub():
            for pause in (*PAUSES, None):
                try:
                    commit = self.push(message, take_model)
                except Exception as error:
                    ends = pause is None or is_refusal(error) or isinstance(error, OfflineModeIsEnabled)
                    if ends or self._due or self._hurry.wait(pause):
                        raise
                else:
                    self._said = None
                    return commit

    def start(self, message: str, checkpoint: Path) -> None:
        """Pushes in the background what was just saved; while a push is under way, after it."""
        with self._lock:
            self._due, self._checkpoint = message, checkpoint
            if self._thread is None:
                # No thread of an executor: Python would wait for it when a signal ends the run.
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                message, self._due = self._due, None
                if message is None:
                    self._thread = None
                    return
            try:
                self.try_hard(message, take_model=True)
            except Exception as error:
                if not self._due:  # the next one is the next attempt; rotation may have taken this one's checkpoint
                    self._say(reason_of(error, self.token), "The run goes on, and tries again later.")

    def finish(self) -> None:
        """Waits for what is under way, without further pauses, and no longer than until a signal comes."""
        self._hurry.set()
        while (thread := self._thread) is not None and not signals.requested():
            thread.join(0.2)
        self._hurry.clear()

    def end(self, message: str) -> CommitInfo | None:
        """The push at the end of a run; one that fails is a line that says how to go on."""
        try:
            return self.try_hard(message)
        except Exception as error:
            self._said = None
            completes = f"python scripts/push.py {shlex.quote(str(self.folder))}"
            self._say(reason_of(error, self.token), f"All is in {self.folder}; this completes it: {completes}")
            return None

    def _say(self, reason: str, ending: str) -> None:
        """Once for each reason in a row."""
        if reason != self._said:
            say(f"push_to_hub {self.repo or self.settings.hub_model_id}: {reason}. {ending}")
        self._said = reason

    def refusal(self, error: Exception) -> InputError:
        """What is wrong with a name or a right, and the remedy."""
        status, reason = status_of(error), reason_of(error, self.token)
        if status == 401:
            return InputError(f"hub_token: {reason}. {LOG_IN}")
        if status == 400 and "/branch/" in str(error.response.url):
            return InputError(f"hub_revision: {reason}. Name a branch.")
        if status is None and not isinstance(error, HFValidationError):
            return InputError(f"{self.folder}: {reason}")
        return InputError(
            f"hub_model_id {self.settings.hub_model_id}: {reason}. Name a repository of models, as user/name, that"
            " the token may write to."
        )
