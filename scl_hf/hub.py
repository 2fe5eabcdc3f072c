"""The Hugging Face Hub: names on it, reasons for failures without secrets, and pushes of a run's folder."""

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, get_session, get_token, set_client_factory
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars
from tqdm.auto import tqdm
from transformers.trainer_utils import HubStrategy, sort_checkpoints

from .errors import InputError, check_field, first_line
from .files import is_disk_full, replacing, write_json

TIMEOUT = (10, 120, 120, 10)  # seconds to connect, read, write and wait for a connection; by default there is none
PAUSES = (5, 30, 120)  # seconds between the attempts of a push; huggingface_hub itself retries for half a minute
ANSWERS = {
    401: "the Hub does not know the token",
    403: "the token may not write there",
    404: "the repository or its revision is gone, or the token may not see it",
    409: "something else is being written there",
    429: "there were too many requests",
}
LOG_IN = "Run `hf auth login`, or set HF_TOKEN, with one that may write."

SETTINGS_NAME = "_hub.json"  # where a run's folder is pushed to
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*config.json", "*.py", "training_args.bin")
# Sample predictions show images of the data, which not every license allows to be passed on.
NOT_PUSHED = ["_*", ".*", "*/.*", "checkpoint-*", "predictions/*", "panels/*", "*.tfevents.*"]


def on_the_hub(name: str | os.PathLike) -> tuple[str, str | None] | None:
    """Returns repository and revision of a name such as user/repo@revision; `None` for a folder or another name."""
    match = re.fullmatch(r"(\w[\w.-]*/(?!checkpoint-)\w[\w.-]*)(?:@(\S+))?", str(name))
    return match.groups() if match and not os.path.exists(name) else None


def check_token(token: str | None) -> None:
    """Raises if there is no token, or a malformed one, which HTTP libraries would quote in their errors."""
    token = token or _own_token()
    if token is None:
        raise InputError(f"hub_token: there is no token. {LOG_IN}")
    if not re.fullmatch(r"[!-~]+", token):
        raise InputError("hub_token: holds characters that no token has, such as a line break. Copy it again.")


def _own_token() -> str | None:
    with contextlib.suppress(Exception):  # a machine's own ways to get one may fail
        return get_token()


def _status_of(error: BaseException) -> int | None:
    """Returns the status of the Hub's answer that an error holds, if any."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_refusal(error: BaseException) -> bool:
    """Returns whether the same request would fail again: a name or a right is wrong, not the connection."""
    if (status := _status_of(error)) is not None:
        return 400 <= status < 500 and status not in (408, 409, 412, 425, 429)
    return isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError)


def reason_of(error: BaseException, token: str | None = None) -> str:
    """Returns why the Hub could not be used, in a few words, without tokens and signed addresses."""
    if (status := _status_of(error)) is not None:
        said = str(getattr(error, "server_message", None) or getattr(error.response, "reason_phrase", "")).strip()
        words = ANSWERS.get(status, "the Hub cannot do it now" if status >= 500 else "the Hub refuses it")
        reason = f"{words} ({' '.join(f'{status} {said}'.split())})"
    elif isinstance(error, ValueError) or getattr(error, "filename", None) or is_disk_full(error):
        reason = first_line(error)
    else:
        words = "the Hub cannot be reached" if isinstance(error, (OSError, HTTPError)) else type(error).__name__
        reason = f"{words} ({first_line(error)})"
    for secret in filter(None, (token, _own_token())):
        reason = reason.replace(secret.strip(), "…")
    return re.sub(r"(https?://[^\s?]+)\?[^\s)]+", r"\1", reason)


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Limits how long huggingface_hub waits, and mutes its warnings, which show signed addresses."""
    client, logger = get_session(), logging.getLogger("huggingface_hub")
    if client.timeout.read is None:  # otherwise the user has set limits of their own
        options = {"event_hooks": client.event_hooks, "follow_redirects": True, "timeout": TIMEOUT}
        set_client_factory(lambda: type(client)(**options))
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.nullcontext() if sys.stderr.isatty() else disable_progress_bars():
            yield
    finally:
        logger.setLevel(level)


@dataclass
class HubArguments:
    """
    Where a run is pushed to; by default where it was pushed while it trained.

    Args:
        hub_model_id (`str`, *optional*): The repository, as user/name or a name alone, created if there is none.
        hub_private_repo (`bool`, *optional*): Whether a new repository is private. By default as the account has it.
        hub_strategy (`str`, *optional*): What goes there besides the model: end and every_save nothing, checkpoint the
            newest checkpoint, all_checkpoints all of them.
        hub_revision (`str`, *optional*): The branch, main by default, created if there is none.
    """

    hub_model_id: str | None = None
    hub_private_repo: bool | None = None
    hub_strategy: str | None = None
    hub_revision: str | None = None

    def __post_init__(self):
        known = [strategy.value for strategy in HubStrategy]
        check_field(self, "hub_strategy", self.hub_strategy in (None, *known), f"one of {', '.join(known)}")


def settings_of(folder: Path, given: HubArguments) -> HubArguments:
    """Returns where a run's folder is pushed to: the `given` fields, and for the others those of the run."""
    path, recorded = folder / SETTINGS_NAME, {}
    if path.exists():
        try:
            recorded = asdict(HubArguments(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            problem = f"cannot be read ({first_line(error)})"
            raise InputError(f"{path}: {problem}. Remove it, and give --hub_model_id.") from error
    settings = HubArguments(**recorded | {name: value for name, value in asdict(given).items() if value is not None})
    if settings.hub_model_id is None:
        raise InputError(f"hub_model_id: is missing, for {folder} was not to be pushed. Add --hub_model_id user/name.")
    return settings


class Push:
    """
    Pushes a run's folder: model, code, card and images to the root, and the checkpoints that `hub_strategy` wants.
    Each push sends all that is missing, so that it makes up for one that failed. A failed push does not stop the run.
    Without a `token`, that of the machine is taken.
    """

    def __init__(self, folder: str | Path, settings: HubArguments, token: str | None = None):
        self.folder, self.settings, self.token = Path(folder), settings, token
        self.repo: str | None = None  # with its namespace, as the Hub returns it
        self._newest: Path | None = None  # checkpoint that this run has saved last
        self._sent: set[Path] = set()  # checkpoints that are on the Hub
        self._due: str | None = None  # message of the next push
        self._thread: threading.Thread | None = None
        self._lock, self._hurry = threading.Lock(), threading.Event()
        self._said: str | None = None

    def prepare(self) -> str:
        """Opens the repository and returns its name; raises for a wrong name or right, not for a lost connection."""
        check_token(self.token)
        try:
            with quiet_hub():
                self._open()
        except Exception as error:
            if is_refusal(error):
                raise self.refusal(error) from error
            self._say(error)
        write_json(self.folder / SETTINGS_NAME, asdict(self.settings))
        return self.repo or self.settings.hub_model_id

    def start(self, message: str, checkpoint: Path) -> None:
        """Pushes a new `checkpoint` in the background, after the push under way."""
        with self._lock:
            self._due, self._newest = message, checkpoint
            if self._thread is None:
                # Not `HfApi.run_as_future`: Python joins its thread at exit, so a stopped run would wait for the push.
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def finish(self, is_stopped: Callable[[], int] = lambda: 0) -> None:
        """Waits for the push under way, without further pauses, until `is_stopped`."""
        self._hurry.set()
        while (thread := self._thread) is not None and not is_stopped():
            thread.join(0.2)
        self._hurry.clear()

    def end(self, message: str) -> CommitInfo | None:
        """Pushes at the end of a run; where that fails, prints the command that completes it."""
        try:
            return self.push(message)
        except Exception as error:
            self._said = None
            command = f"scl-hf push {shlex.quote(str(self.folder))}"
            self._say(error, f"All is in {self.folder}; this completes it: {command}")
            return None

    def push(self, message: str, take_model: bool = False) -> CommitInfo:
        """Pushes in up to four attempts; raises the last error. `take_model` first copies the newest model."""
        with quiet_hub():
            for pause in (*PAUSES, None):
                try:
                    commit = self._push_once(message, take_model)
                    self._said = None
                    return commit
                except Exception as error:
                    ends = pause is None or is_refusal(error) or isinstance(error, OfflineModeIsEnabled)
                    if ends or self._due or self._hurry.wait(pause):
                        raise

    def _work(self) -> None:
        while True:
            with self._lock:
                message, self._due = self._due, None
                if message is None:
                    self._thread = None
                    return
            try:
                self.push(message, take_model=True)
            except Exception as error:
                if not self._due:  # the next push is the next attempt
                    self._say(error)

    def _open(self) -> None:
        """Creates the repository and its branch, and checks that the token may write there."""
        settings, api = self.settings, HfApi(token=self.token)
        repo = api.create_repo(settings.hub_model_id, private=settings.hub_private_repo, exist_ok=True).repo_id
        api.auth_check(repo, write=True)  # for an existing one `create_repo` needs no right to write
        if (branch := settings.hub_revision) and not branch.startswith("refs/"):
            api.create_branch(repo, branch=branch, exist_ok=True)
        self.repo = repo

    def _push_once(self, message: str, take_model: bool) -> CommitInfo:
        if self.repo is None:
            self._open()
        checkpoints = _complete_checkpoints(self.folder)
        newest = self._newest or (checkpoints[-1] if checkpoints else None)
        if take_model and newest is not None:
            for path in (path for pattern in MODEL_FILES for path in newest.glob(pattern)):
                with replacing(self.folder / path.name) as partial:
                    shutil.copyfile(path, partial)
        options = {"repo_id": self.repo, "revision": self.settings.hub_revision, "commit_message": message}
        upload = HfApi(token=self.token).upload_folder
        commit = upload(folder_path=self.folder, ignore_patterns=NOT_PUSHED, **options)
        wanted = {}
        if self.settings.hub_strategy == HubStrategy.CHECKPOINT and newest is not None:
            wanted = {"last-checkpoint": newest}  # upstream's name
        elif self.settings.hub_strategy == HubStrategy.ALL_CHECKPOINTS:
            wanted = {path.name: path for path in checkpoints}
        options["commit_message"] += ", checkpoint"
        for name, path in wanted.items():
            if path not in self._sent:
                # Deletes the files of an older checkpoint, which the manifest does not name.
                upload(folder_path=path, path_in_repo=name, delete_patterns="*", **options)
                self._sent.add(path)
        return commit

    def _say(self, error: Exception, ending: str = "The run continues and tries again later.") -> None:
        """Prints the reason of a failure above a progress bar, unless it is that of the failure before."""
        if (reason := reason_of(error, self.token)) != self._said:
            with contextlib.suppress(OSError):  # the terminal may be gone
                tqdm.write(f"push_to_hub {self.repo or self.settings.hub_model_id}: {reason}. {ending}", sys.stderr)
        self._said = reason

    def refusal(self, error: Exception) -> InputError:
        """Returns the error for a wrong name or a missing right, with the remedy."""
        status, reason = _status_of(error), reason_of(error, self.token)
        if status == 401:
            return InputError(f"hub_token: {reason}. {LOG_IN}")
        if status == 400 and "/branch/" in str(error.response.url):
            return InputError(f"hub_revision: {reason}. Name a branch.")
        if status is None and not isinstance(error, HFValidationError):
            return InputError(f"{self.folder}: {reason}")
        remedy = "Name a repository of models, as user/name, that the token may write to."
        return InputError(f"hub_model_id {self.settings.hub_model_id}: {reason}. {remedy}")


def _complete_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in a run's folder that have a manifest, the newest last."""
    found = [path for path in map(Path, sort_checkpoints(str(folder))) if (path / "manifest.json").is_file()]
    return [path for path in found if re.fullmatch(r"checkpoint-\d+", path.name)]  # no copy of one


def has_ended(folder: Path) -> bool:
    """Returns whether no checkpoint in a run's folder is newer than the model at its root."""
    if not (checkpoints := _complete_checkpoints(folder)):
        return True
    newest = checkpoints[-1]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if state["global_step"] >= int(newest.name.rpartition("-")[2]):
            return True
    return any(path.stat().st_mtime >= newest.stat().st_mtime for path in folder.glob("*.safetensors"))
