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
"""What joins the audio encoder to the language model: linear layers, or CTC over letters and tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import WhisperConfig
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer, sinusoids
from transformers.utils import ModelOutput

from .configuration_flow_omni import FlowOmniConfig
from .lexicon import FlowOmniHypothesis, FlowOmniLexicon
from .speech_decoder import MAX_TOKEN_BYTES
from .speech_heads import FlowOmniZeroLinear


# letters that each convolution sees at once
LETTER_KERNEL = 7

# labels that the losses ignore
IGNORE_INDEX = -100


@dataclass
class FlowOmniAdapterOutput(ModelOutput):
    """
    Outputs of an audio adapter.

    Args:
        embeddings (`torch.Tensor` of shape `(num_audios, max_positions, hidden_size)`): What the language model reads.
        mask (`torch.BoolTensor` of shape `(num_audios, max_positions)`): False for padding.
        letter_logits (`torch.Tensor` of shape `(num_audios, num_encoded, num_letters + 1)`, *optional*): Scores of the
            letters at every encoder frame, the blank last. Only of [`FlowOmniCTCAdapter`], as are the following.
        letters (`torch.LongTensor` of shape `(num_audios, max_letters)`, *optional*): The most likely letters, padded
            with -100.
        token_states (`torch.Tensor` of shape `(num_audios, max_letters, hidden_size)`, *optional*): For every letter
            the vector that points at the token which begins there, or at the blank.
        token_ids (`torch.LongTensor` of shape `(num_audios, max_positions)`, *optional*): The token closest to each
            embedding, padded with -100.
    """

    embeddings: torch.Tensor | None = None
    mask: torch.BoolTensor | None = None
    letter_logits: torch.Tensor | None = None
    letters: torch.LongTensor | None = None
    token_states: torch.Tensor | None = None
    token_ids: torch.LongTensor | None = None


class FlowOmniEmbeddingNorm(nn.RMSNorm):
    """Scales embeddings to the size of the language model's own, at first; the scale is trained."""


class FlowOmniAudioAdapter(nn.Module):
    """
    Joins `adapter_stack_size` encoder frames into one position of the language model, through linear layers and a
    norm. Without the norm, training makes encoded audio a hundred times as large as text embeddings, so that the
    updates of the language model's layers are lost in it.
    """

    def __init__(self, config: FlowOmniConfig):
        super().__init__()
        self.stack_size = config.adapter_stack_size
        sizes = [config.audio_config.d_model * self.stack_size]
        sizes += [config.adapter_hidden_size] * (config.adapter_num_layers - 1) + [config.text_config.hidden_size]
        self.layers = nn.ModuleList([nn.Linear(size_in, size_out) for size_in, size_out in zip(sizes, sizes[1:])])
        self.act_fn = ACT2FN[config.adapter_hidden_act]
        self.norm = FlowOmniEmbeddingNorm(config.text_config.hidden_size, eps=1e-6)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        token_embeddings: torch.Tensor | None = None,
        max_positions: torch.LongTensor | None = None,
        score_texts: Callable | None = None,
    ) -> FlowOmniAdapterOutput:
        """`hidden_states` (num_audios, num_encoded, d_model) and their mask (num_audios, num_encoded)"""
        # encoder outputs at padding are not zero, and a last group may contain some of them
        hidden_states = hidden_states * attention_mask[..., None].to(hidden_states.dtype)
        missing = -hidden_states.shape[1] % self.stack_size
        hidden_states = nn.functional.pad(hidden_states, (0, 0, 0, missing))
        hidden_states = hidden_states.reshape(hidden_states.shape[0], -1, self.layers[0].in_features)
        for layer in self.layers[:-1]:
            hidden_states = self.act_fn(layer(hidden_states))
        return FlowOmniAdapterOutput(
            embeddings=self.norm(self.layers[-1](hidden_states)), mask=attention_mask[:, :: self.stack_size].bool()
        )


class FlowOmniCTCAdapter(nn.Module):
    """
    Hierarchical CTC. A linear layer spells: it scores the letters of `ctc_alphabet` at every encoder frame. Frames of
    the blank are dropped and runs of a letter merged. Transformer layers over the letters then point, by cosine, at the
    tokens of the language model, or again at a blank. What the language model reads is the mixture of its own
    embeddings of the likeliest tokens: about as many positions as the text has, each close to one it knows.

    Letters alone serve the layers above as well, so that these learn to read from any text ([`read_letters`]).
    """

    # Tokens in the mixture. The rest is noise: the embeddings of fifty thousand tokens, each of hardly any weight.
    num_mixed_tokens = 8

    def __init__(self, config: FlowOmniConfig):
        super().__init__()
        d_model, hidden_size, text_size = (
            config.audio_config.d_model,
            config.adapter_hidden_size,
            config.text_config.hidden_size,
        )
        self.num_letters, self.space = len(config.ctc_alphabet), config.ctc_alphabet.index(" ")
        # transformers' encoder layer of Whisper, at the adapter's own width
        self.layer_config = WhisperConfig(
            d_model=hidden_size,
            encoder_attention_heads=config.adapter_num_attention_heads,
            encoder_ffn_dim=4 * hidden_size,
            activation_function=config.adapter_hidden_act,
            attn_implementation=getattr(config.audio_config, "_attn_implementation", None),
        )
        self.letter_head = nn.Linear(d_model, self.num_letters + 1)
        # a word is read from its neighbouring letters: attention alone takes thousands of steps to find them
        self.letter_conv1 = nn.Conv1d(self.num_letters, hidden_size, LETTER_KERNEL, padding="same")
        self.letter_conv2 = nn.Conv1d(hidden_size, hidden_size, LETTER_KERNEL, padding="same")
        # what was heard adds nothing until it is trained: text, from which the layers can learn alone, has none
        self.audio_proj = FlowOmniZeroLinear(d_model, hidden_size, bias=False)
        self.layers = nn.ModuleList(WhisperEncoderLayer(self.layer_config) for _ in range(config.adapter_num_layers))
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.token_proj = nn.Linear(hidden_size, text_size)
        self.blank = nn.Parameter(torch.empty(text_size))
        # the bytes of the vocabulary's tokens, followed by zeros: saved with the weights, so that no tokenizer is needed
        num_tokens = config.text_config.vocab_size
        self.register_buffer("token_bytes", torch.zeros(num_tokens, MAX_TOKEN_BYTES, dtype=torch.uint8))
        self.alphabet = config.ctc_alphabet
        self._directions, self._lexicon = (None, 0, None), None

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        token_embeddings: torch.Tensor | None,
        max_positions: torch.LongTensor,
        score_texts: Callable | None = None,
    ) -> FlowOmniAdapterOutput:
        """
        `hidden_states` (num_audios, num_encoded, d_model), their mask (num_audios, num_encoded), the language model's
        `token_embeddings` (vocab_size, hidden_size), without which the output has no embeddings, and the largest number
        of these, `max_positions` (num_audios,). With `score_texts` ([`FlowOmniModel.score_texts`]) the language model
        chooses among the texts that were found.
        """
        letter_logits, probabilities, letters, heard = self.spell(hidden_states, attention_mask)
        chosen = None
        if not self.training and self.token_bytes.any():
            # the likeliest words, which are read as text is
            found = self.search(letter_logits, attention_mask.sum(dim=-1))
            texts = [next(iter(scores)) for scores in found]
            if score_texts is not None:
                chosen = self.lexicon.choose(found, score_texts)
                texts = [hypothesis.text for hypothesis in chosen]
            letters = self.letters_of(texts).to(letters.device)
            probabilities = nn.functional.one_hot(letters.clamp(min=0), self.num_letters).to(probabilities)
            heard = None
        token_states = self.read_letters(probabilities, letters != IGNORE_INDEX, heard)
        if token_embeddings is None:
            return FlowOmniAdapterOutput(letter_logits=letter_logits, letters=letters, token_states=token_states)
        embeddings, token_ids = self.mix_tokens(token_states, letters, token_embeddings, max_positions, chosen)
        return FlowOmniAdapterOutput(
            embeddings=embeddings,
            mask=token_ids != IGNORE_INDEX,
            letter_logits=letter_logits,
            letters=letters,
            token_states=token_states,
            token_ids=token_ids,
        )

    def spell(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.LongTensor, torch.Tensor]:
        """
        The scores of the letters at every frame; and of each letter that they spell, its probabilities (num_audios,
        max_letters, num_letters), its index (num_audios, max_letters; padded with -100) and the encoder's output.
        """
        logits = self.letter_head(hidden_states)
        path = logits.argmax(dim=-1).masked_fill(~attention_mask.bool(), self.num_letters)
        is_letter, run = runs_of(path, self.num_letters)
        probabilities = logits[..., : self.num_letters].float().softmax(dim=-1).to(logits.dtype)
        pooled = mean_of_runs(torch.cat([probabilities, hidden_states], dim=-1), is_letter, run)
        letters = first_of_runs(path, is_letter, run)
        # a space after the last letter, which punctuation at the end may take
        end = (letters != IGNORE_INDEX).sum(dim=-1, keepdim=True)
        letters = nn.functional.pad(letters, (0, 1), value=IGNORE_INDEX).scatter(1, end, self.space)
        pooled = nn.functional.pad(pooled, (0, 0, 0, 1))
        probabilities, heard = pooled.split([self.num_letters, hidden_states.shape[-1]], dim=-1)
        is_end = torch.zeros_like(letters, dtype=torch.bool).scatter(1, end, True)[..., None]
        space = nn.functional.one_hot(torch.tensor(self.space, device=letters.device), self.num_letters)
        return logits, torch.where(is_end, space.to(probabilities), probabilities), letters, heard

    @torch.no_grad()
    def search(self, letter_logits: torch.Tensor, lengths: torch.LongTensor) -> list[dict[str, float]]:
        """The likeliest texts of each audio and their scores, the best first."""
        log_probs = letter_logits.float().log_softmax(dim=-1)
        return [self.lexicon.search(row[:length]) for row, length in zip(log_probs, lengths.tolist())]

    def letters_of(self, texts: list[str]) -> torch.LongTensor:
        """The letters of texts (num_texts, max_letters), with a space at the end, padded with -100."""
        rows = [torch.tensor([self.alphabet.index(letter) for letter in f"{text} "]) for text in texts]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX)

    @property
    def lexicon(self) -> FlowOmniLexicon:
        if self._lexicon is None:
            self._lexicon = FlowOmniLexicon(self.token_bytes, self.alphabet)
        return self._lexicon

    def read_letters(
        self, letters: torch.Tensor, mask: torch.BoolTensor, heard: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        For each letter the vector that points at a token or at the blank, from the probabilities of `letters`
        (num_texts, max_letters, num_letters) and what was `heard` (num_texts, max_letters, d_model), if anything was.
        """
        # zeros beyond the letters of a row, as its convolutions would see alone
        is_letter = mask[:, None].to(self.letter_conv1.weight.dtype)
        hidden_states = nn.functional.gelu(self.letter_conv1(letters.mT.to(is_letter.dtype) * is_letter))
        if heard is not None:
            hidden_states = hidden_states + self.audio_proj(heard).mT
        hidden_states = hidden_states + nn.functional.gelu(self.letter_conv2(hidden_states * is_letter))
        hidden_states = hidden_states.mT
        hidden_states = hidden_states + sinusoids(hidden_states.shape[1], hidden_states.shape[2]).to(hidden_states)
        # attention over nothing would give NaN: a row without letters attends to its padding
        mask = mask | ~mask.any(dim=-1, keepdim=True)
        attention_mask = create_bidirectional_mask(
            config=self.layer_config, inputs_embeds=hidden_states, attention_mask=mask
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        return self.token_proj(self.layer_norm(hidden_states))

    def mix_tokens(
        self,
        token_states: torch.Tensor,
        letters: torch.LongTensor,
        token_embeddings: torch.Tensor,
        max_positions: torch.LongTensor,
        chosen: list[FlowOmniHypothesis] | None = None,
    ) -> tuple[torch.Tensor, torch.LongTensor]:
        """
        The embeddings (num_audios, num_tokens, hidden_size) of the tokens that were heard, and their ids: of texts that
        were `chosen`, those of the language model alone.
        """
        vocab_size, states = len(token_embeddings), nn.functional.normalize(token_states.float(), dim=-1)
        with torch.no_grad():
            table = self._token_directions(token_embeddings)
            blank = token_directions(self.blank[None], token_embeddings)[0]
            best, likeliest = (states @ table.T).topk(min(self.num_mixed_tokens, vocab_size), dim=-1)
            is_blank = (states @ blank > best[..., 0]) | (letters == IGNORE_INDEX)
            path = likeliest[..., 0].masked_fill(is_blank, vocab_size)
        if chosen is not None:
            return self._chosen(chosen, path, letters, token_embeddings, max_positions)
        nearest = nn.functional.embedding(likeliest, token_embeddings)
        # computed again, with a graph: one through the scores of the whole vocabulary would be large
        cosines = (nn.functional.embedding(likeliest, table) * states.unsqueeze(-2)).sum(dim=-1)
        weights = (cosines * table.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = (weights.unsqueeze(-1) * nearest.float()).sum(dim=-2)
        if not self.training and self.token_bytes.any():
            return self._checked(mixed, path, letters, token_embeddings, max_positions)
        is_token, run = runs_of(path, vocab_size)
        is_token = is_token & (run < max_positions[:, None])
        embeddings = mean_of_runs(mixed, is_token, run).to(token_embeddings.dtype)
        return embeddings, first_of_runs(path, is_token, run)

    @torch.no_grad()
    def _checked(
        self,
        mixed: torch.Tensor,
        path: torch.LongTensor,
        letters: torch.LongTensor,
        token_embeddings: torch.Tensor,
        max_positions: torch.LongTensor,
    ) -> tuple[torch.Tensor, torch.LongTensor]:
        """[`mix_tokens`], where words whose tokens spell something else than was heard are spelled letter by letter."""
        rows, ids = [], []
        for row, (row_letters, row_path) in enumerate(zip(letters.tolist(), path.tolist())):
            row_letters = [letter for letter in row_letters if letter != IGNORE_INDEX]
            read = list(self.lexicon.read(row_letters, row_path, blank=len(token_embeddings)))
            read = read[: int(max_positions[row])]
            vectors = [
                mixed[row, places].mean(dim=0) if places else token_embeddings[token_id] for token_id, places in read
            ]
            rows.append(
                torch.stack([vector.to(token_embeddings.dtype) for vector in vectors]) if read else mixed[row, :0]
            )
            ids.append(torch.tensor([token_id for token_id, _ in read], dtype=torch.long, device=path.device))
        rows = [embeddings.to(token_embeddings.dtype) for embeddings in rows]
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        token_ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=IGNORE_INDEX)
        return embeddings, token_ids

    @torch.no_grad()
    def _chosen(
        self,
        chosen: list[FlowOmniHypothesis],
        path: torch.LongTensor,
        letters: torch.LongTensor,
        token_embeddings: torch.Tensor,
        max_positions: torch.LongTensor,
    ) -> tuple[torch.Tensor, torch.LongTensor]:
        """The embeddings and ids of texts that the language model chose, with the commas that are read from letters."""
        ids = []
        for hypothesis, row_letters, row_path, limit in zip(
            chosen, letters.tolist(), path.tolist(), max_positions.tolist()
        ):
            row_letters = [letter for letter in row_letters if letter != IGNORE_INDEX]
            tokens = self.lexicon.punctuate(hypothesis, row_letters, row_path, blank=len(token_embeddings))
            ids.append(torch.tensor(tokens[:limit], dtype=torch.long, device=path.device))
        token_ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=IGNORE_INDEX)
        is_token = (token_ids != IGNORE_INDEX)[..., None]
        return nn.functional.embedding(token_ids.clamp(min=0), token_embeddings) * is_token, token_ids

    def _token_directions(self, token_embeddings: torch.Tensor) -> torch.Tensor:
        """[`token_directions`] of the vocabulary, kept until its embeddings change: a tenth of a second for 50,000."""
        version = 0 if token_embeddings.is_inference() else token_embeddings._version
        kept, kept_version, directions = self._directions
        if kept is not token_embeddings or kept_version != version or directions.device != token_embeddings.device:
            directions = token_directions(token_embeddings)
            self._directions = (token_embeddings, version, directions)
        return directions


def runs_of(path: torch.LongTensor, blank: int) -> tuple[torch.BoolTensor, torch.LongTensor]:
    """Where a CTC path (batch_size, length) is not blank, and the number of the run of equal symbols at each place."""
    previous = nn.functional.pad(path[:, :-1], (1, 0), value=blank)
    is_symbol = path != blank
    return is_symbol, ((path != previous) & is_symbol).cumsum(dim=-1) - 1


def mean_of_runs(values: torch.Tensor, is_symbol: torch.BoolTensor, run: torch.LongTensor) -> torch.Tensor:
    """The means of `values` (batch_size, length, size) over each run: (batch_size, max_runs, size), at least one run."""
    num_runs = _num_runs(is_symbol, run)
    # what belongs to no run goes to one more, which is cut off
    index = run.masked_fill(~is_symbol, num_runs)[..., None]
    sums = values.new_zeros(len(values), num_runs + 1, values.shape[-1])
    sums = sums.scatter_add(1, index.expand_as(values), values)[:, :num_runs]
    counts = values.new_zeros(len(values), num_runs + 1, 1).scatter_add(1, index, torch.ones_like(values[..., :1]))
    return sums / counts[:, :num_runs].clamp(min=1)


def first_of_runs(path: torch.LongTensor, is_symbol: torch.BoolTensor, run: torch.LongTensor) -> torch.LongTensor:
    """The symbol of each run: (batch_size, max_runs), padded with -100."""
    num_runs = _num_runs(is_symbol, run)
    symbols = path.new_full((len(path), num_runs + 1), IGNORE_INDEX)
    return symbols.scatter(1, run.masked_fill(~is_symbol, num_runs), path)[:, :num_runs]


def _num_runs(is_symbol: torch.BoolTensor, run: torch.LongTensor) -> int:
    return max(1, int(run.masked_fill(~is_symbol, -1).max()) + 1)


def token_directions(embeddings: torch.Tensor, vocabulary: torch.Tensor | None = None) -> torch.Tensor:
    """The directions of token embeddings from the mean of the vocabulary, which all of them share."""
    center = (embeddings if vocabulary is None else vocabulary).detach().float().mean(dim=0)
    return nn.functional.normalize(embeddings.float() - center, dim=-1)


# --- losses


def token_ctc_loss(
    token_states: torch.Tensor,
    lengths: torch.LongTensor,
    token_embeddings: torch.Tensor,
    blank: torch.Tensor,
    labels: torch.LongTensor,
    num_drawn_tokens: int | None = None,
) -> torch.Tensor:
    """
    Connectionist temporal classification over the language model's own embeddings: each state is to point, by cosine,
    at the token that it adds to the transcript, or at the `blank` (hidden_size,). `token_states` (num_audios,
    max_length, hidden_size) have `lengths` (num_audios,); `token_embeddings` (vocab_size, hidden_size) get no gradient;
    `labels` (num_audios, max_labels) are the transcripts, padded with -100. An audio without any is left out.

    With `num_drawn_tokens`, the vocabulary of a batch is that of its labels and so many drawn ones: with fifty thousand
    tokens, the scores of all would take nearly all of the time and the memory of a step.
    """
    labels = labels.to(token_states.device)
    num_labels = (labels != IGNORE_INDEX).sum(dim=-1)
    scores, indices = token_scores(token_states, token_embeddings, blank, labels, num_drawn_tokens)
    return ctc_loss(scores, lengths, indices, num_labels)


def spelling_loss(
    token_states: torch.Tensor,
    token_embeddings: torch.Tensor,
    blank: torch.Tensor,
    targets: torch.LongTensor,
    num_drawn_tokens: int | None = None,
) -> torch.Tensor:
    """
    Cross-entropy of the token that each letter of a known text completes, or of the `blank` where the `targets`
    (num_texts, max_letters) are -1. The spelling of a text is known, so that nothing has to be aligned.
    """
    scores, indices = token_scores(token_states, token_embeddings, blank, targets, num_drawn_tokens)
    indices = torch.where(
        targets == -1, scores.shape[-1] - 1, indices.masked_fill(targets == IGNORE_INDEX, IGNORE_INDEX)
    )
    return nn.functional.cross_entropy(scores.flatten(0, 1), indices.flatten(), ignore_index=IGNORE_INDEX)


def token_scores(
    token_states: torch.Tensor,
    token_embeddings: torch.Tensor,
    blank: torch.Tensor,
    labels: torch.LongTensor,
    num_drawn_tokens: int | None,
) -> tuple[torch.Tensor, torch.LongTensor]:
    """
    Scores of tokens and, last, of the blank: cosines, scaled as the scores of an attention over vectors of this size.
    And the labels as indices of these scores, where they are not negative.
    """
    token_embeddings, vocab_size = token_embeddings.detach(), len(token_embeddings)
    ids, indices = labels.clamp(min=0).unique(return_inverse=True)
    if num_drawn_tokens is not None and num_drawn_tokens < vocab_size:
        drawn = torch.randint(vocab_size, (num_drawn_tokens,), device=ids.device).unique()
        is_new = torch.ones(vocab_size, dtype=torch.bool, device=ids.device).index_fill(0, ids, False)
        directions = token_directions(token_embeddings[torch.cat([ids, drawn[is_new[drawn]]])], token_embeddings)
    else:
        indices, directions = labels.clamp(min=0), token_directions(token_embeddings)
    directions = torch.cat([directions, token_directions(blank[None], token_embeddings)])
    scores = nn.functional.normalize(token_states.float(), dim=-1) @ directions.T * directions.shape[-1] ** 0.5
    return scores, indices


def letter_ctc_loss(logits: torch.Tensor, lengths: torch.LongTensor, labels: torch.LongTensor) -> torch.Tensor:
    """CTC over letters, from `logits` (num_audios, max_length, num_letters + 1) and `labels`, padded with -100."""
    labels = labels.to(logits.device)
    return ctc_loss(logits.float(), lengths, labels.clamp(min=0), (labels != IGNORE_INDEX).sum(dim=-1))


def ctc_loss(
    scores: torch.Tensor, lengths: torch.LongTensor, labels: torch.LongTensor, num_labels: torch.LongTensor
) -> torch.Tensor:
    """The mean over all labels; the blank is the last of the symbols."""
    losses = nn.functional.ctc_loss(
        scores.log_softmax(dim=-1).transpose(0, 1),
        labels,
        lengths.to(labels.device),
        num_labels,
        blank=scores.shape[-1] - 1,
        reduction="none",
        zero_infinity=True,  # audio with more symbols than positions has no alignment
    )
    return losses[num_labels > 0].sum() / num_labels.sum().clamp(min=1)


AUDIO_ADAPTERS = {None: FlowOmniAudioAdapter, "ctc": FlowOmniCTCAdapter}
