"""`PushedTrainer`: transformers' Trainer, whose pushes to the Hub stop nothing and lose nothing."""

from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers import Trainer
from transformers.trainer_utils import HubStrategy

from ..hub import HubArguments, Push
from ..processes import on_main_process
from . import signals


class PushedTrainer(Trainer):
    """
    [`~transformers.Trainer`] with its fields `push_to_hub` and `hub_*`, which mean what they mean there, but:

    - A wrong name or a token without rights is refused before the run; a Hub that cannot be reached is not waited for.
    - What fails later is tried again ([`~scl_hf.hub.Push`]) and said in a line, and never ends the run. The line
      at the end has the command which completes it.
    - A save that finds another one's push under way is pushed after it, so that `hub_always_push` changes nothing.
    """

    _push: Push | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As upstream; refuses what would not be pushed at the end either."""
        args = self.args
        settings = HubArguments(
            hub_model_id=args.hub_model_id or Path(args.output_dir).absolute().name,
            hub_private_repo=args.hub_private_repo if private is None else private,
            hub_strategy=HubStrategy(args.hub_strategy).value,
            hub_revision=args.hub_revision,
        )
        self._push = Push(args.output_dir, settings, token or args.hub_token)
        self.hub_model_id = on_main_process(self._push.prepare)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            self._push.start(f"Training in progress, step {self.state.global_step}", Path(checkpoint_folder))

    def _finish_current_push(self) -> None:
        if self._push is not None:
            self._push.finish(signals.requested)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | None:
        """
        As upstream, with the checkpoints that `hub_strategy` wants; one that fails is said in a line.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Not used: it returns when all is there, or cannot be.
            token (`str`, *optional*): In place of `hub_token`.
            revision (`str`, *optional*): In place of `hub_revision`.
            private (`bool`, *optional*): In place of `hub_private_repo`.
            kwargs (`dict[str, Any]`, *optional*): Passed to [`~Trainer.create_model_card`].

        Returns:
            `CommitInfo`: The commit, or `None` where it failed, and in all processes but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self._push is None:
            self.init_hf_repo(token, private)
        self._finish_current_push()
        self.save_model(_internal_call=True)
        self.save_state()
        if not self.is_world_process_zero():
            return None
        push = self._push
        push.token = token or push.token
        if revision and revision != push.settings.hub_revision:
            push.settings.hub_revision, push.repo = revision, None  # opened again, for it may be new
        tags = kwargs.pop("tags", None) or []
        tags = [tags] if isinstance(tags, str) else tags
        kwargs["tags"] = list(dict.fromkeys([*tags, *(getattr(self.model, "model_tags", None) or ())]))
        kwargs.setdefault("model_name", push.settings.hub_model_id.split("/")[-1])
        self.create_model_card(**kwargs)
        commit = push.end(commit_message)
        self.hub_model_id = push.repo or self.hub_model_id
        return commit
