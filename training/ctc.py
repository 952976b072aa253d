# Copyright 2026 The Flow-Omni authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""
CTC of an adapter that spells (`adapter_compression="ctc"`), without the language model: the upper layers of the audio
encoder and the adapter, over cached outputs of the layers below, and over text alone.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from ..modeling_flow_omni.audio_adapters import letter_ctc_loss, spelling_loss
from ..modeling_flow_omni.modeling_flow_omni import (
    IGNORE_INDEX,
    NUM_DRAWN_TOKENS,
    FlowOmniAudioFeatures,
    FlowOmniForSpeechGeneration,
)
from ..processing.audio_io import load_audio
from ..processing.files import atomic_write
from ..processing.spelling import letters_of, spelled_tokens, text_of_letters
from .arguments import FlowOmniTrainingArguments
from .augmentation import Augmentation, generator_of
from .batching import LengthBatchSampler
from .data import audio_of, draws_of_epoch, has
from .examples import UNREADABLE, Draw
from .metrics import character_error_rate
from .trainer import AtomicTrainer, set_learning_rate


logger = logging.getLogger(__name__)

LOSSES = ("letter_loss", "ctc_loss", "spelling_loss")
ROWS_PER_FILE = 64
# Letters that sound alike in English, which a speller who has only heard a word confuses.
SIMILAR_LETTERS = ("aeiouy", "csxz", "ckq", "gj", "dt", "bp", "fv", "mn", "lr", "wu")
MAX_SPELLING_ERRORS = 0.25  # of the letters of a text, in training on text alone


class EncodedRows(Dataset):
    """
    Rows as examples for CTC, indexed by [`Draw`]: with the output of the encoder's first `num_layers` layers where a row
    has a `question_audio`, and otherwise of its text alone. Audio is encoded once, with `augmentation`, into files in
    `folder`; those that are there already are kept.
    """

    def __init__(
        self,
        rows: Any,
        folder: str | Path,
        model: FlowOmniForSpeechGeneration,
        processor: Any,
        num_layers: int,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        max_skipped_fraction: float = 0.1,
    ):
        self.rows, self.folder, self.processor, self.num_layers = rows, Path(folder), processor, num_layers
        self.builder = SimpleNamespace(seed=seed)  # for the sampler
        self.augmentation, self.alphabet = augmentation, model.config.ctc_alphabet
        self.sizes = [len(source) for source in getattr(rows, "sources", [rows])]
        self.times = getattr(rows, "times", [1.0])
        self.folder.mkdir(parents=True, exist_ok=True)
        # what audio says is its transcript; a row of text alone may be of either side
        texts = [
            row.get("question_text") or (not has(row, "question_audio") and row.get("answer_text")) or ""
            for row in rows
        ]
        self.texts, self.letters = texts, [letters_of(text, self.alphabet) for text in texts]
        self.tokens = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.files: list[Path] = []  # of each `ROWS_PER_FILE` rows
        self.lengths: list[int] = []
        encoder = model.model.audio_encoder
        lower = [encoder.conv1, encoder.conv2, encoder.embed_positions, *encoder.layers[:num_layers]]
        weights = [
            weight.flatten()[:: max(1, weight.numel() // 64)].tolist()
            for part in lower
            for weight in part.state_dict().values()
        ]
        self.settings = [num_layers, seed, repr(augmentation), weights, processor.feature_extractor.to_dict()]
        for number, start in enumerate(range(0, len(rows), ROWS_PER_FILE)):
            indices = range(start, min(start + ROWS_PER_FILE, len(rows)))
            self.lengths += self._encoded(indices, model)
            if number % 50 == 49:
                logger.info("Encoded %d of %d rows.", indices[-1] + 1, len(rows))
        unreadable = sum(length == 0 and has(row, "question_audio") for length, row in zip(self.lengths, rows))
        if unreadable > max_skipped_fraction * len(rows):
            raise ValueError(f"{unreadable} of {len(rows)} rows could not be read, see `max_skipped_fraction`.")
        # a row that could not be read or spelled is never drawn
        self.lengths = [length if letters else 0 for length, letters in zip(self.lengths, self.letters)]
        if not any(self.lengths):
            raise ValueError(f"None of {len(rows)} rows has a text that can be spelled with {self.alphabet!r}.")

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, epoch: int) -> list[tuple[Draw, int]]:
        """The rows of an epoch with their lengths: encoder frames, or letters of a text."""
        draws = draws_of_epoch(self.sizes, self.times, self.builder.seed, epoch)
        return [(Draw(index, round_, "ctc"), self.lengths[index]) for round_, index in draws if self.lengths[index]]

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, row = draw.index, self.rows[draw.index]
        example = {"id": str(row.get("id"))}
        if has(row, "question_audio"):
            with safe_open(self.files[index // ROWS_PER_FILE], framework="pt") as file:
                example["hidden_states"] = file.get_tensor(str(index % ROWS_PER_FILE)).float()
            example["letter_labels"] = torch.tensor(self.letters[index])
            return example | {"audio_labels": torch.tensor(self.tokens[index])}
        offsets = self.processor.tokenizer(self.texts[index], add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(*spelled_tokens(self.texts[index], self.tokens[index], offsets["offset_mapping"], self.alphabet))
        spelled = misspell(list(pairs), self.alphabet, generator_of("misspell", self.builder.seed, index, draw.round))
        letters, targets = torch.tensor(spelled).T
        return example | {"letters": letters, "letter_targets": targets}

    @torch.no_grad()
    def _encoded(self, indices: Sequence[int], model: FlowOmniForSpeechGeneration) -> list[int]:
        """The lengths of some rows, whose audio is encoded into a file unless it is there."""
        rows = [dict(self.rows[index]) for index in indices]
        spoken = [(index, row) for index, row in zip(indices, rows) if has(row, "question_audio")]
        lengths = {index: len(self.letters[index]) for index in indices} | {index: 0 for index, _ in spoken}
        file = self.folder / f"{self._key(spoken)}.safetensors"
        self.files.append(file)
        if spoken and not file.is_file():
            encodings = {}
            # once: it keeps the weights that it casts
            with torch.autocast(model.device.type, dtype=torch.bfloat16):
                for index, row in spoken:
                    try:
                        encodings[str(index % ROWS_PER_FILE)] = self._encode(index, row, model)
                    except UNREADABLE as error:
                        logger.warning("Skipped %s: %s", row.get("id"), error)
            found = {name: len(encoding) for name, encoding in encodings.items()}
            with atomic_write(file) as unfinished:
                save_file(encodings, unfinished, {"lengths": json.dumps(found)})
        if spoken:
            with safe_open(file, framework="pt") as opened:
                found = json.loads(opened.metadata()["lengths"])
            lengths |= {index: found.get(str(index % ROWS_PER_FILE), 0) for index, _ in spoken}
        return [lengths[index] for index in indices]

    def _key(self, spoken: Sequence[tuple[int, Mapping]]) -> str:
        """Of all that the encodings of some rows depend on: other rows, settings or weights make another file."""
        hashed = hashlib.blake2b(json.dumps(self.settings).encode(), digest_size=16)
        for index, row in spoken:
            audio = row["question_audio"]
            path = audio.get("path") if isinstance(audio, Mapping) else audio
            hashed.update(repr([index, path, row.get("question_start"), row.get("question_end")]).encode())
            if isinstance(path, str) and Path(path).is_file():
                hashed.update(repr([Path(path).stat().st_size, Path(path).stat().st_mtime_ns]).encode())
            for content in audio.values() if isinstance(audio, Mapping) else ():
                hashed.update(np.asarray(content).tobytes() if not isinstance(content, bytes) else content)
        return hashed.hexdigest()

    def _encode(self, index: int, row: Mapping, model: FlowOmniForSpeechGeneration) -> torch.Tensor:
        extractor, encoder = self.processor.feature_extractor, model.model.audio_encoder
        # one window: two frames of features make one of the encoder
        limit = 2 * encoder.max_source_positions * extractor.hop_length
        rate = extractor.sampling_rate
        waveform = load_audio(audio_of(row, "question_audio"), rate, max_seconds=limit / rate)
        if self.augmentation is not None:
            key = (self.builder.seed, index)
            waveform = self.augmentation.augment(waveform, rate, key=key)[:limit]
        with torch.autocast(model.device.type, enabled=False):
            features = extractor(waveform, return_tensors="pt").to(model.device)
        mask = features["input_features_mask"].bool()
        hidden_states = encoder.embed_frames(features["input_features"], mask)
        hidden_states = encoder.run_layers(hidden_states, mask[:, ::2], last=self.num_layers)
        return hidden_states[0].half().contiguous().cpu()


def misspell(
    letters: Sequence[tuple[int, int]], alphabet: str, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """
    Letters, each with the token that it completes (or -1), with the errors of a speller who has only heard the text:
    letters are replaced (mostly by similar ones), dropped or doubled. The rate is drawn for each text; every second one
    has none.
    """
    rate = max(0.0, generator.uniform(-MAX_SPELLING_ERRORS, MAX_SPELLING_ERRORS))
    spelled: list[tuple[int, int]] = []
    for letter, token in letters:
        kind = generator.random() / max(rate, 1e-9)
        similar = [group for group in SIMILAR_LETTERS if alphabet[letter] in group]
        if kind < 0.55 and similar:
            group = similar[generator.integers(len(similar))]
            letter = max(0, alphabet.find(group[generator.integers(len(group))]))
        elif kind < 0.65:
            letter = int(generator.integers(len(alphabet)))
        elif kind < 0.85 and spelled and (token < 0 or spelled[-1][1] < 0):
            # the token of a letter that is dropped belongs to the one before
            spelled[-1] = (spelled[-1][0], max(token, spelled[-1][1]))
            continue
        elif kind < 1.0:
            spelled.append((letter, -1))
        spelled.append((letter, token))
    return spelled


class CTCCollator:
    """Batches of encoded audio and of texts, whose letters are indices of `alphabet`."""

    def __init__(self, alphabet: str):
        self.space = alphabet.index(" ")

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, Any]:
        spoken = [example for example in examples if "hidden_states" in example]
        written = [example for example in examples if "letters" in example]
        if not examples:
            # fills up the last round of several processes: a space alone completes no token
            written = [{"id": "", "letters": torch.tensor([self.space]), "letter_targets": torch.tensor([-1])}]
        batch = {"ids": [example["id"] for example in spoken + written]}
        for name, rows in (
            ("letter_labels", spoken),
            ("audio_labels", spoken),
            ("letters", written),
            ("letter_targets", written),
        ):
            if rows:
                batch[name] = _pad([example[name] for example in rows], IGNORE_INDEX)
        if spoken:
            batch["hidden_states"] = _pad([example["hidden_states"] for example in spoken])
            batch["num_frames"] = torch.tensor([len(example["hidden_states"]) for example in spoken])
        return batch


def _pad(rows: Sequence[torch.Tensor], value: float = 0.0) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


class CTCModel(nn.Module):
    """
    What CTC trains: the encoder's layers from `num_layers` on, and the adapter, against the language model's embeddings.
    Both are the modules of the whole `model`.
    """

    def __init__(self, model: FlowOmniForSpeechGeneration, num_layers: int):
        super().__init__()
        encoder = model.model.audio_encoder
        model.requires_grad_(False)
        self.layers = encoder.layers[num_layers:].requires_grad_(True)
        self.layer_norm = encoder.layer_norm.requires_grad_(True)
        self.adapter = model.model.audio_adapter.requires_grad_(True)
        self.num_layers, self.whole = num_layers, (model,)  # a tuple: the whole model is not part of checkpoints

    def forward(
        self,
        hidden_states: torch.Tensor | None = None,
        num_frames: torch.LongTensor | None = None,
        letter_labels: torch.LongTensor | None = None,
        audio_labels: torch.LongTensor | None = None,
        letters: torch.LongTensor | None = None,
        letter_targets: torch.LongTensor | None = None,
    ) -> dict[str, Any]:
        """The losses of encoded audio and of texts, and in evaluation the `audio` features."""
        model, adapter = self.whole[0].model, self.adapter
        losses: dict[str, Any] = {}
        if hidden_states is not None:
            mask = torch.arange(hidden_states.shape[1], device=hidden_states.device) < num_frames[:, None]
            if self.training:
                hidden_states = mask_in_time(hidden_states, num_frames)
            encoded = model.audio_encoder.run_layers(hidden_states, mask, first=self.num_layers)
            if self.training and model.config.ctc_loss_weight == 0:
                losses["letter_loss"] = letter_ctc_loss(adapter.letter_head(encoded), num_frames, letter_labels)
            else:
                losses["audio"] = model.adapt(encoded, mask, with_embeddings=not self.training)
                losses |= model.ctc_losses(losses["audio"], audio_labels, letter_labels)
        if letters is not None:
            one_hot = nn.functional.one_hot(letters.clamp(min=0), adapter.num_letters).float()
            states = adapter.read_letters(one_hot, letters != IGNORE_INDEX)
            num_drawn = NUM_DRAWN_TOKENS if self.training else None
            table = model.get_token_embeddings()
            losses["spelling_loss"] = spelling_loss(states, table, adapter.blank, letter_targets, num_drawn)
        return losses


def mask_in_time(hidden_states: torch.Tensor, num_frames: torch.LongTensor) -> torch.Tensor:
    """Encoder frames with gaps: in each audio one of 1 to 19 frames for every two seconds, each at a drawn place."""
    is_kept = torch.ones(hidden_states.shape[:2], device=hidden_states.device)
    for row, length in enumerate(num_frames.tolist()):
        for _ in range(length // 100):
            width = int(torch.randint(1, 20, ()))
            start = int(torch.randint(max(1, length - width), ()))
            is_kept[row, start : start + width] = 0.0
    return hidden_states * is_kept[..., None]


class CTCTrainer(AtomicTrainer):
    """Trains a [`CTCModel`] on [`EncodedRows`]. Evaluation transcribes."""

    def __init__(self, model: CTCModel, args: FlowOmniTrainingArguments, processor: Any, **kwargs: Any):
        args.label_names, args.ddp_find_unused_parameters = ["audio_labels"], True
        config = model.whole[0].config
        super().__init__(model, args, LOSSES, data_collator=CTCCollator(config.ctc_alphabet), **kwargs)
        self.processor, self.config, self.transcripts = processor, config, []

    def get_train_dataloader(self) -> DataLoader:
        return self._batches(self.train_dataset, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        return self._batches(self.eval_dataset if eval_dataset is None else eval_dataset, shuffle=False)

    def _batches(self, dataset: EncodedRows, shuffle: bool) -> DataLoader:
        sampler = LengthBatchSampler(dataset, self.args.max_positions_per_batch, self.args.world_size, shuffle)
        workers = self.args.dataloader_num_workers
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=self.data_collator, num_workers=workers)
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self.args.new_module_learning_rate is not None:
            adapter = self.accelerator.unwrap_model(self.model).adapter
            set_learning_rate(optimizer, set(adapter.parameters()), self.args.new_module_learning_rate)
        return optimizer

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any):
        inputs = dict(inputs)
        ids = inputs.pop("ids")
        outputs = model(**inputs)
        audio = outputs.pop("audio", None)
        loss = sum(outputs.values())
        if model.training:
            self.add_losses(loss, outputs, dict.fromkeys(outputs, 1.0), ids)
        elif audio is not None:
            self._transcribe(audio, inputs["audio_labels"])
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any):
        """The loss alone; also of batches without labels, which fill up the last round of several processes."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def _transcribe(self, audio: FlowOmniAudioFeatures, labels: torch.LongTensor) -> None:
        window, tokenizer = audio.windows[0], self.processor.tokenizer
        for letters, tokens, reference in zip(window.letters.tolist(), window.token_ids.tolist(), labels.tolist()):
            texts = [tokenizer.decode([token for token in ids if token >= 0]) for ids in (reference, tokens)]
            self.transcripts.append((*texts, text_of_letters(letters, self.config.ctc_alphabet)))

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any):
        self.transcripts = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.args.world_size > 1:
            self.transcripts = gather_object(self.transcripts)
        references, tokens, letters = zip(*self.transcripts)
        rates = {
            "cer_tokens": character_error_rate(references, tokens),
            "cer_letters": character_error_rate(references, letters),
        }
        output.metrics.update({f"{metric_key_prefix}_{name}": rate for name, rate in rates.items()})
        for reference, token_text, letter_text in self.transcripts[:: max(1, len(self.transcripts) // 5)]:
            logger.info("reference: %s | tokens: %s | letters: %s", reference, token_text, letter_text)
        return output
