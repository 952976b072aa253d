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
The speech decoder: a transformer of its own sizes that runs the steps of speech beside a language model that writes
text alone. It reads what the tokens are spelled like, and if the config says so the language model's hidden states.
"""

import torch
from torch import nn
from transformers import MistralConfig, initialization
from transformers.cache_utils import Cache, DynamicCache
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.masking_utils import create_bidirectional_mask, create_sliding_window_causal_mask
from transformers.models.mistral.modeling_mistral import (
    MistralDecoderLayer,
    MistralPreTrainedModel,
    MistralRMSNorm,
    MistralRotaryEmbedding,
)

from .configuration_flow_omni import FlowOmniConfig
from .speech_heads import FlowOmniZeroLinear


# labels that the loss ignores, as in the file of the model, which imports this one
IGNORE_INDEX = -100

# Longer tokens are spelled by their first bytes. Of English words with their space, nearly all are shorter.
MAX_TOKEN_BYTES = 20


# --- spelling


def spelling_table(tokenizer, num_tokens: int) -> torch.Tensor:
    """
    The bytes of the text of each of a tokenizer's first `num_tokens` tokens, `(num_tokens, MAX_TOKEN_BYTES)` in uint8,
    followed by zeros. Control tokens have none.
    """
    table = torch.zeros(num_tokens, MAX_TOKEN_BYTES, dtype=torch.uint8)
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    control = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for token, index in tokenizer.get_vocab().items():
        if index < num_tokens and index not in control:
            spelled = _bytes_of(token, tokenizer, byte_of)[:MAX_TOKEN_BYTES]
            table[index, : len(spelled)] = torch.tensor(list(spelled), dtype=torch.uint8)
    return table


def _bytes_of(token: str, tokenizer, byte_of: dict[str, int]) -> bytes:
    # behind another token: at the start of a text, some tokenizers swallow the space of a word
    text = tokenizer.convert_tokens_to_string(["a", token]).removeprefix("a")
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text.encode()
    # a part of a character: a byte written as <0xE2>, or the tokenizer writes a character for each byte
    if token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return bytes(byte_of[character] for character in token if character in byte_of)


class FlowOmniSpelling(nn.Module):
    """
    Vectors of text tokens from their characters: the mean over a token's bytes of one transformer layer, so that a
    token that was never trained on sounds like its letters. The bytes of the vocabulary are a buffer, saved with the
    weights: 20 bytes a token spare everybody who loads the model the tokenizer.

    Nothing is cached: a token costs as much as a small part of a step of speech, and comes a few times a second.
    """

    def __init__(self, config: MistralConfig, num_tokens: int):
        super().__init__()
        self.config = config
        self.register_buffer("token_bytes", torch.zeros(num_tokens, MAX_TOKEN_BYTES, dtype=torch.uint8))
        self.byte_embedding = nn.Embedding(256, config.hidden_size)
        self.position_embedding = nn.Embedding(MAX_TOKEN_BYTES, config.hidden_size)
        self.layer = MistralDecoderLayer(config, layer_idx=0)
        self.layer.self_attn.is_causal = False
        self.norm = MistralRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    @torch.no_grad()
    def set_tokenizer(self, tokenizer) -> None:
        """Takes the bytes of the tokens from a tokenizer."""
        self.token_bytes.copy_(spelling_table(tokenizer, len(self.token_bytes)))

    def starts_word(self, token_ids: torch.LongTensor) -> torch.BoolTensor:
        """Which tokens begin a word: with white space, or a character of Chinese or Japanese, which are written without."""
        first = self.token_bytes[token_ids.to(self.token_bytes.device), 0]
        is_space, is_ideographic = (first > 0) & (first <= 0x20), (first >= 0xE3) & (first <= 0xE9)
        return is_space | is_ideographic

    def is_blank(self, token_ids: torch.LongTensor) -> torch.BoolTensor:
        """Which tokens are white space alone."""
        spelled = self.token_bytes[token_ids.to(self.token_bytes.device)]
        return (spelled <= 0x20).all(dim=-1) & (spelled[..., 0] > 0)

    def forward(self, token_ids: torch.LongTensor, rotary_emb: nn.Module) -> torch.Tensor:
        """`token_ids`: (num_tokens,) -> (num_tokens, hidden_size), zeros for tokens without text."""
        token_ids, index = token_ids.unique(return_inverse=True)
        spelled = self.token_bytes[token_ids].long()
        longest = int((spelled > 0).sum(dim=-1).max())
        if longest == 0 and not self.token_bytes.any():
            raise ValueError(
                "The speech decoder does not know the tokens' characters: call `model.speech_decoder.spelling.set_tokenizer` "
                "with the tokenizer, as `from_pretrained_parts` does."
            )
        spelled = spelled[:, : max(1, longest)]
        is_byte = spelled > 0
        positions = torch.arange(spelled.shape[1], device=spelled.device)[None]
        hidden_states = self.byte_embedding(spelled) + self.position_embedding(positions)
        # a token without text attends to all of its padding: attention over nothing would give NaN
        is_seen = is_byte | ~is_byte.any(dim=-1, keepdim=True)
        hidden_states = self.layer(
            hidden_states,
            attention_mask=create_bidirectional_mask(self.config, hidden_states, attention_mask=is_seen),
            position_ids=positions,
            position_embeddings=rotary_emb(hidden_states, positions),
        )
        is_byte = is_byte[..., None].to(hidden_states.dtype)
        means = (self.norm(hidden_states) * is_byte).sum(dim=1) / is_byte.sum(dim=1).clamp(min=1)
        return means[index]


# --- when tokens are due


def advance_loss(advance_logits: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """
    Binary cross-entropy of `advance_logits` (batch_size, num_steps) and the decoder's `advance_labels`, aligned as the
    state labels are: step `t` decides about `t + 1`. Unweighted: generation sums up what it predicts as probabilities.
    """
    targets = labels[:, 1:].to(advance_logits.device)
    is_target = targets != IGNORE_INDEX
    logits = advance_logits[:, :-1].float()[is_target]
    loss = nn.functional.binary_cross_entropy_with_logits(logits, targets[is_target].float(), reduction="sum")
    return loss / max(len(logits), 1)


# --- the decoder


class FlowOmniSpeechDecoder(MistralPreTrainedModel):
    """
    Causal layers over the steps of an answer's speech. The input of a step is the sum of its speech state, the previous
    patch, the voice, and where a text token is due that token. The layers are Mistral's, whatever the language model:
    attention over a window of steps.

    At most one token is due at a step. Tokens are due some steps before their sound (`speech_delay`), so that the tokens
    of a word can follow one another without being late. They do so by rule, as does the end of the text, and the first
    token is due at the first step. What is left to decide, of two outcomes, is whether to wait or to advance to the next
    word: whether the next token begins one, which the language model has written by then, need not be guessed.

    The spelling of a token is always read as it is: no other input tells the words where `reads_hidden_states` is
    false, and a gate at zero would hold back what its own encoder learns. The hidden state comes through a projection
    that starts at zero instead: a decoder that was trained on spelling alone speaks on unchanged when it begins to read
    a language model.
    """

    def __init__(self, config: FlowOmniConfig):
        speech_config, size = config.speech_config, config.speech_config.hidden_size
        super().__init__(self.config_of_layers(config))
        self.spelling = FlowOmniSpelling(self.config, config.text_config.vocab_size)
        self.end_of_text = nn.Embedding(1, size)
        self.hidden_state_proj = None
        if speech_config.reads_hidden_states:
            self.hidden_state_proj = FlowOmniZeroLinear(config.text_config.hidden_size, size, bias=False)
        self.voice_embedding = nn.Embedding(len(speech_config.voices), size)
        self.state_embedding = nn.Embedding(len(config.state_ids), size)
        self.patch_proj = nn.Linear(speech_config.patch_size, size, bias=False)
        self.layers = nn.ModuleList(
            [MistralDecoderLayer(self.config, index) for index in range(speech_config.num_hidden_layers)]
        )
        self.norm = MistralRMSNorm(size, eps=self.config.rms_norm_eps)
        self.rotary_emb = MistralRotaryEmbedding(self.config)
        self.post_init()

    @staticmethod
    def config_of_layers(config: FlowOmniConfig) -> MistralConfig:
        speech_config = config.speech_config
        layer_config = MistralConfig(
            vocab_size=1,  # of none: it embeds spellings
            bos_token_id=None,
            eos_token_id=None,
            hidden_size=speech_config.hidden_size,
            intermediate_size=speech_config.intermediate_size or 8 * speech_config.hidden_size // 3,
            num_hidden_layers=speech_config.num_hidden_layers,
            num_attention_heads=speech_config.num_attention_heads,
            num_key_value_heads=speech_config.num_attention_heads,
            sliding_window=speech_config.attention_window,
        )
        layer_config._attn_implementation = config._attn_implementation
        return layer_config

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FlowOmniZeroLinear):
            initialization.zeros_(module.weight)
        elif isinstance(module, FlowOmniSpelling):
            initialization.zeros_(module.token_bytes)

    def new_cache(self) -> Cache:
        """An empty cache for the steps of one answer."""
        return DynamicCache(config=self.config)

    def embed_tokens(
        self, token_ids: torch.LongTensor, ends_text: torch.BoolTensor, hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The inputs (num_tokens, hidden_size) of tokens, by their spelling and the language model's `hidden_states`
        (num_tokens, its hidden_size) at them; a vector of its own for tokens that end a text.
        """
        device = self.end_of_text.weight.device
        vectors = self.spelling(token_ids.to(device), self.rotary_emb)
        if self.hidden_state_proj is not None:
            # language models differ in the size of their states
            hidden_states = nn.functional.rms_norm(hidden_states.to(device), hidden_states.shape[-1:])
            vectors = vectors + self.hidden_state_proj(hidden_states.to(self.hidden_state_proj.weight.dtype))
        return torch.where(ends_text.to(device)[:, None], self.end_of_text.weight, vectors)

    def due_steps(self, input_ids: torch.LongTensor, token_steps: torch.LongTensor) -> torch.LongTensor:
        """
        The steps at which the tokens of answers are due by the rules above, in the shape of `token_steps` (batch_size,
        num_positions), of which the first tokens of words count, or the second where the first is a space alone.
        """
        is_answer = token_steps != IGNORE_INDEX
        index = is_answer.cumsum(dim=1) - 1
        is_blank = self.spelling.is_blank(input_ids).to(token_steps.device)
        next_steps = torch.cat([token_steps[:, 1:], token_steps[:, -1:]], dim=1)
        word_steps = torch.where(is_blank, torch.maximum(token_steps, next_steps - 1), token_steps)
        # a word waits for its step, and for the tokens before it: the running maximum of how far steps are ahead of
        # tokens grows at words alone
        ahead = torch.where(self._is_decided(input_ids, token_steps), word_steps - index, 0)
        return torch.where(is_answer, index + ahead.cummax(dim=1).values, IGNORE_INDEX)

    def _is_decided(self, input_ids: torch.LongTensor, token_steps: torch.LongTensor) -> torch.BoolTensor:
        """The tokens of answers that do not follow by rule: those that begin a word, but for the first and the last."""
        is_inner = (token_steps > token_steps.masked_fill(token_steps < 0, 2**31).min(dim=1, keepdim=True).values) & (
            token_steps < token_steps.max(dim=1, keepdim=True).values
        )
        return is_inner & self.spelling.starts_word(input_ids).to(token_steps.device)

    def advance_labels(
        self,
        input_ids: torch.LongTensor,
        token_steps: torch.LongTensor,
        num_steps: int,
        state_labels: torch.LongTensor | None = None,
    ) -> torch.LongTensor:
        """
        Whether the next word advances to each step, `(batch_size, num_steps)`: 1, 0, or -100 where this is not for the
        decoder to decide, because a token is due by rule or the text is over, and in rows without `state_labels`, which
        only fill up a batch.
        """
        steps = self.due_steps(input_ids, token_steps)
        rows, positions = (steps != IGNORE_INDEX).nonzero(as_tuple=True)
        labels = steps.new_zeros(len(steps), num_steps)
        values = torch.where(self._is_decided(input_ids, token_steps), 1, IGNORE_INDEX)
        labels[rows, steps[rows, positions]] = values[rows, positions]
        is_over = torch.arange(num_steps, device=steps.device) > steps.max(dim=1, keepdim=True).values
        if state_labels is not None:
            is_over = is_over | (state_labels == IGNORE_INDEX)
        return labels.masked_fill(is_over, IGNORE_INDEX)

    def lay_out_text(
        self,
        input_ids: torch.LongTensor,
        token_steps: torch.LongTensor,
        num_steps: int,
        hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        The text inputs of every step (batch_size, num_steps, hidden_size), zeros where no token is due, from
        `input_ids` (batch_size, num_positions), the steps of those that are the answer's (-100 for others), and the
        language model's `hidden_states` at them. The last token of an answer ends its text.
        """
        is_answer = token_steps != IGNORE_INDEX
        if int(token_steps.max()) >= num_steps:
            raise ValueError(
                f"`token_steps` goes up to {int(token_steps.max())}, but `speech_states` has only {num_steps} steps: "
                "speech may end only after its text."
            )
        ends_text = token_steps == token_steps.max(dim=1, keepdim=True).values
        token_steps = self.due_steps(input_ids, token_steps)
        if hidden_states is not None:
            hidden_states = hidden_states[is_answer.to(hidden_states.device)]
        vectors = self.embed_tokens(input_ids[is_answer], ends_text[is_answer], hidden_states)
        steps = vectors.new_zeros(len(input_ids), num_steps, vectors.shape[-1])
        index = is_answer.nonzero()[:, 0].to(steps.device), token_steps[is_answer].to(steps.device)
        return steps.index_put(index, vectors)

    def forward(
        self,
        text_inputs: torch.Tensor | None,
        speech_states: torch.LongTensor,
        previous_patches: torch.Tensor | None = None,
        voice_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """
        The condition of the patch of each step (batch_size, num_steps, hidden_size), from its `text_inputs` in the same
        shape, `speech_states` (batch_size, num_steps), `previous_patches` (batch_size, num_steps, patch_size), and the
        `voice_ids` (batch_size,) of the rows. With a `cache`, one step at a time.
        """
        device = self.state_embedding.weight.device
        hidden_states = self.state_embedding(speech_states.to(device))
        if voice_ids is None:
            voice_ids = speech_states.new_zeros(len(speech_states))
        hidden_states = hidden_states + self.voice_embedding(voice_ids.to(device))[:, None]
        if text_inputs is not None:
            hidden_states = hidden_states + text_inputs
        if previous_patches is not None:
            # no bias: where there is no previous patch, its zeros add nothing
            hidden_states = hidden_states + self.patch_proj(previous_patches.to(device, self.patch_proj.weight.dtype))

        past_length = cache.get_seq_length() if cache is not None else 0
        position_ids = (torch.arange(hidden_states.shape[1], device=device) + past_length)[None]
        attention_mask = None
        if cache is None:
            attention_mask = create_sliding_window_causal_mask(
                self.config, hidden_states, attention_mask=None, cache=None, position_ids=position_ids
            )
        # with a cache, a step sees all that it holds: steps behind the window have left it
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                position_embeddings=position_embeddings,
                cache=cache,
                use_cache=cache is not None,
            )
        return self.norm(hidden_states)
