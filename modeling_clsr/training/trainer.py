"""CLSRTrainer: the Hugging Face Trainer with a stage's losses, negatives of all processes and retrieval measures.

Enters: model, stage, data sets. Leaves: checkpoint folders that load by `AutoModel`.
"""

import contextlib
import functools
import gc
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainerCallback

from ..data.collator import Collator
from ..evaluation.metrics import word_error_rate
from ..evaluation.ranking import ranking_measures, relevance_of
from ..modeling_clsr import CLSRModel
from .arguments import CLSRTrainingArguments
from .cached import PER_ROW, cached_step, documents_of
from .curve import CurveCallback
from .memory import MemoryBank
from .objective import Part, clip_losses, process_share, split_batch, total, vector_losses
from .rows import EpochSampler, SpeechRows
from .stages import STAGES

logger = logging.getLogger(__name__)
COMPLETE = "complete"  # written last into a checkpoint folder, so that a killed save is noticed


class CLSRTrainer(Trainer):
    """Train one stage.

    Args:
        model: prepared by `stages.prepare_stage`.
        args: CLSRTrainingArguments.
        frozen: modules that stay in evaluation mode.
        new_parameters: names of parameters that start from random weights, for `new_learning_rate`.
        eval_collator: collator of the fixed pool: no transcripts enter the model there.
        **kwargs: of `Trainer`.
    """

    args: CLSRTrainingArguments
    model: Any  # CLSRModel; the base class knows only modules

    # The loss is a mean over the batch: the Trainer divides it by the steps of an accumulation.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: CLSRModel,
        args: CLSRTrainingArguments,
        *,
        frozen: Sequence[nn.Module] = (),
        new_parameters: Sequence[str] = (),
        eval_collator: Collator | None = None,
        bank: MemoryBank | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, args, **kwargs)
        self.stage = STAGES[args.stage]
        self.frozen = list(frozen)
        self.new_parameters = set(new_parameters)
        self.eval_collator = eval_collator or self.data_collator
        self.bank = None if bank is None else bank.to(args.device)
        self.logged: dict[str, list[float]] = defaultdict(list)
        self.waited = 0.0  # seconds for data since the last log
        self.last_log = time.perf_counter()
        self.add_callback(CompleteCallback())
        self.add_callback(CurveCallback())

    # -- one step

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> Tensor:
        """Run one step; in pieces if `mini_batch_size` is set. See `Trainer.training_step`."""
        size = self.args.mini_batch_size
        if size is None or not self.args.is_contrastive:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        self._keep_frozen()
        batch = self._prepare_inputs(inputs)
        config, steps = self.model.config, self.current_gradient_accumulation_steps

        def backward(loss: Tensor, is_last: bool) -> None:
            # Gradients are exchanged once, with the last piece.
            sync = contextlib.nullcontext() if is_last else self.accelerator.no_sync(model)
            with sync:
                self.accelerator.backward(loss / steps)

        parts = cached_step(
            batch,
            size,
            forward=functools.partial(self._forward, model),
            vector_losses=lambda queries, documents, scale, whole: vector_losses(
                queries, documents, scale, whole, self.args, config, self.bank
            ),
            clip_losses=lambda output, piece: clip_losses(output, piece, self.args, config),
            backward=backward,
        )
        self._note(parts)
        return total(parts).detach() / steps

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the weighted sum of the stage's losses. See `Trainer.compute_loss`."""
        self._keep_frozen()
        output = self._forward(model, inputs)
        config = self.model.config
        parts: dict[str, Part] = {}
        if self.args.is_contrastive:
            parts = vector_losses(
                output.text_embeds,
                documents_of(output),
                output.logit_scale,
                inputs,
                self.args,
                config,
                self.bank,
            )
        for name, part in clip_losses(output, inputs, self.args, config).items():
            part.value = part.value * process_share(inputs, part.counted_by)
            parts[name] = part
        self._note(parts)
        loss = total(parts)
        return (loss, output) if return_outputs else loss

    def _forward(self, model: nn.Module, batch: dict[str, Any]) -> Any:
        arguments, _ = split_batch(batch)
        with self.compute_loss_context_manager():
            return model(**arguments, return_embeds=self.stage.embeds_clips)

    def _keep_frozen(self) -> None:
        """Undo `model.train()` for what does not learn: no dropout, no running statistics."""
        for module in self.frozen:
            module.eval()

    def _note(self, parts: dict[str, Part]) -> None:
        for name, part in parts.items():
            self.logged[f"loss_{name}"].append(float(part.value.detach()))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean of every loss since the last time beside their sum."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self.logged.items() if values}
            logs["temperature"] = float((-self.model.logit_scale.detach().float()).exp())
            now = time.perf_counter()
            logs["data_wait"] = self.waited / max(now - self.last_log, 1e-9)  # share of the time
            self.waited, self.last_log = 0.0, now
            self.logged.clear()
        super().log(logs, start_time)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of a step, and note how long that took. See `Trainer.get_batch_samples`."""
        start = time.perf_counter()
        try:
            return super().get_batch_samples(*args, **kwargs)
        finally:
            self.waited += time.perf_counter() - start

    # -- order of the data

    def _get_train_sampler(self, train_dataset=None):
        dataset = train_dataset or self.train_dataset
        if not isinstance(dataset, SpeechRows):
            return super()._get_train_sampler(train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        by_length = self.args.train_sampling_strategy == "group_by_length"
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(dataset.lengths(), size, seed, by_length)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return the loader of the fixed pool, which has its own collator."""
        collator, self.data_collator = self.data_collator, self.eval_collator
        drop, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop

    def create_optimizer(self, model=None):
        """Give new parameters their own learning rate. See `Trainer.create_optimizer`."""
        if self.args.new_learning_rate is None or not self.new_parameters or self.optimizer is not None:
            return super().create_optimizer(model)
        decayed = set(self.get_decay_parameter_names(self.model))
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                groups[name in self.new_parameters, name in decayed].append(parameter)
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = kind(
            [
                {
                    "params": parameters,
                    "lr": self.args.new_learning_rate if is_new else self.args.learning_rate,
                    "weight_decay": self.args.weight_decay if is_decayed else 0.0,
                }
                for (is_new, is_decayed), parameters in groups.items()
            ],
            **settings,
        )
        return self.optimizer

    # -- measures

    @torch.no_grad()
    def evaluate(
        self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure R@1/5/10, MRR and WER on the fixed pool, with free decoding and predicted lengths."""
        loader = self.get_eval_dataloader(eval_dataset)
        model = self._wrap_model(self.model, training=False, dataloader=loader)
        model.eval()
        vectors: dict[str, list[Tensor]] = defaultdict(list)
        heard: list[str] = []
        for batch in loader:
            prepared = self._prepare_inputs(batch)
            output = self._forward(model, prepared)
            found = {"groups": prepared[PER_ROW], "index": prepared["row_index"]}
            if output.text_embeds is not None and documents_of(output) is not None:
                found |= {"queries": output.text_embeds, "documents": documents_of(output)}
            for name, value in self.accelerator.gather_for_metrics(found).items():
                vectors[name].append(value.cpu())
            if output.transcripts is not None:
                written = [transcript.text for transcript in output.transcripts]
                heard += self.accelerator.gather_for_metrics(written, use_gather_object=True)
        joined = {name: torch.cat(values) for name, values in vectors.items()}
        measures = self._measures(joined, heard, metric_key_prefix, eval_dataset or self.eval_dataset)
        self.log(measures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, measures)
        return measures

    def _measures(
        self, found: dict[str, Tensor], heard: list[str], prefix: str, dataset: Any
    ) -> dict[str, float]:
        measures: dict[str, float] = {}
        if "queries" in found:
            scores = (found["queries"] @ found["documents"].T).float().numpy()
            relevant = relevance_of(_own_groups(found), _own_groups(found))
            ranked = ranking_measures(scores, relevant)
            measures |= {f"{prefix}_{name}": value for name, value in ranked.items()}
        rows = [dataset.rows[index] for index in found["index"].tolist()]
        pairs = [(row.transcript, text) for row, text in zip(rows, heard, strict=False) if row.transcript]
        if pairs:
            truths, written = zip(*pairs, strict=True)
            measures[f"{prefix}_wer"] = word_error_rate(truths, written)[0]
        measures[f"{prefix}_epoch"] = float(self.state.epoch or 0.0)
        return measures

    def finish(self) -> None:
        """End a run of several processes in good order.

        A process that leaves early takes the others down, and a DDP model that outlives the process group can hang at
        exit (torch 2.13, gloo).
        """
        self.accelerator.wait_for_everyone()
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.end_training()


def _own_groups(found: dict[str, Tensor]) -> Any:
    """Return each row's passage; a row without one is a passage of its own."""
    groups = found["groups"]
    return torch.where(groups < 0, -1 - found["index"], groups).numpy()


class CompleteCallback(TrainerCallback):
    """Mark a checkpoint folder that was saved whole."""

    def on_save(self, args, state, control, **kwargs):
        """Write the mark."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            (folder / COMPLETE).touch()


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest checkpoint that was saved whole; None if there is none."""
    folders = [path.parent for path in Path(output_dir).glob(f"checkpoint-*/{COMPLETE}")]
    return max(folders, key=lambda folder: int(folder.name.split("-")[1]), default=None)
