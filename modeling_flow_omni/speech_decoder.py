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
text alone. It reads how the text is spelled, and if the config says so the language model's hidden states.
"""

import torch
from torch import nn
from transformers import MistralConfig, initialization
from transformers.cache_utils import Cache, DynamicCache
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.masking_utils import create_sliding_window_causal_mask
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
# The end of a text, after its last byte. 0 stands for no byte.
END_OF_TEXT = 256

# The convolutions over the bytes of a text: a byte's vector depends on so many bytes before and after it.
NUM_CONVOLUTIONS, KERNEL_SIZE = 3, 5
NUM_NEIGHBOURS = NUM_CONVOLUTIONS * (KERNEL_SIZE // 2)
# at most so many bytes (by their logarithm) are expected in a step
LARGEST_LOG_RATE = 3.0


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
    Vectors of the bytes of a text, each from the byte and its neighbours: what a letter sounds like depends on the letters
    around it, and on nothing else that a language model knows. A capital is its small letter and a vector for all capitals.

    The bytes of the vocabulary are a buffer, saved with the weights unless the audio adapter has them: 20 bytes a token
    spare everybody who loads the model the tokenizer.
    """

    def __init__(self, config: FlowOmniConfig):
        super().__init__()
        hidden_size, num_tokens = config.speech_config.hidden_size, config.text_config.vocab_size
        spoken_symbols = config.speech_config.spoken_symbols
        self.spoken_symbols = {ord(symbol): [*text.encode()] for symbol, text in (spoken_symbols or {}).items()}
        self.language = config.speech_config.spoken_language
        is_saved = config.adapter_compression != "ctc"
        table = torch.zeros(num_tokens, MAX_TOKEN_BYTES, dtype=torch.uint8)
        self.register_buffer("token_bytes", table, persistent=is_saved)
        self.byte_embedding = nn.Embedding(END_OF_TEXT + 1, hidden_size)
        self.capital_embedding = nn.Embedding(1, hidden_size)
        self.norms = nn.ModuleList([nn.LayerNorm(hidden_size) for _ in range(NUM_CONVOLUTIONS)])
        self.convolutions = nn.ModuleList(
            [
                nn.Conv1d(hidden_size, hidden_size, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
                for _ in range(NUM_CONVOLUTIONS)
            ]
        )
        # the text counts as much as the previous patch from the first step of training
        self.norm = nn.LayerNorm(hidden_size)

    @torch.no_grad()
    def set_tokenizer(self, tokenizer) -> None:
        """Takes the bytes of the tokens from a tokenizer."""
        self.token_bytes.copy_(spelling_table(tokenizer, len(self.token_bytes)))

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of the text of a token; of a control token none."""
        if not self.token_bytes.any():
            raise ValueError(
                "The speech decoder does not know the tokens' characters: call "
                "`model.speech_decoder.spelling.set_tokenizer` with the tokenizer, as `from_pretrained_parts` does."
            )
        return bytes(byte for byte in self.token_bytes[token_id].tolist() if byte > 0)

    def spell_out(self, text: bytes) -> list[int]:
        """The bytes of a text, with symbols as they are said."""
        return [said for byte in text for said in self.spoken_symbols.get(byte, [byte])]

    def forward(self, text_bytes: torch.LongTensor) -> torch.Tensor:
        """
        `text_bytes` (batch_size, num_bytes), with 0 where there is none -> (batch_size, num_bytes, hidden_size), zeros
        there.
        """
        is_capital = (text_bytes >= ord("A")) & (text_bytes <= ord("Z"))
        is_byte = (text_bytes > 0)[..., None]
        vectors = self.byte_embedding(torch.where(is_capital, text_bytes + 32, text_bytes))
        vectors = (vectors + is_capital[..., None] * self.capital_embedding.weight[0]) * is_byte
        for norm, convolution in zip(self.norms, self.convolutions):
            # what lies beyond the text is zero to every convolution
            neighbours = convolution((norm(vectors) * is_byte).mT).mT
            vectors = vectors + nn.functional.gelu(neighbours) * is_byte
        return self.norm(vectors) * is_byte


# --- how fast the text is read


def places_of_steps(byte_steps: torch.LongTensor, num_steps: int) -> torch.LongTensor:
    """
    The index of the byte that each step reads, `(batch_size, num_steps)`: the last that `byte_steps` (batch_size,
    num_bytes), the rising steps at which bytes are reached, give it, or the first. -100 is padding.
    """
    steps = torch.arange(num_steps, device=byte_steps.device)
    is_reached = (byte_steps[:, None] <= steps[:, None]) & (byte_steps[:, None] != IGNORE_INDEX)
    return (is_reached.sum(dim=-1) - 1).clamp(min=0)


def advance_labels(byte_steps: torch.LongTensor, state_labels: torch.LongTensor) -> torch.LongTensor:
    """
    How many bytes each step reads on until the next, in the shape of `state_labels` (batch_size, num_steps): -100 once
    the text is over, and in rows without `state_labels`, which only fill up a batch.
    """
    places = places_of_steps(byte_steps, state_labels.shape[1])
    labels = torch.full_like(places, IGNORE_INDEX)
    labels[:, :-1] = places[:, 1:] - places[:, :-1]
    last = (byte_steps != IGNORE_INDEX).sum(dim=-1, keepdim=True) - 1
    is_read = (places < last) & (state_labels != IGNORE_INDEX).to(places.device)
    is_read[:, -1] = False
    return labels.masked_fill(~is_read, IGNORE_INDEX)


def advance_loss(log_rates: torch.Tensor, labels: torch.LongTensor) -> torch.Tensor:
    """
    Of `log_rates` (batch_size, num_steps), the logarithms of how many bytes each step is expected to read on, and the
    decoder's `advance_labels`: the Poisson loss, by which the sum of what is expected follows the sum of what is read.
    """
    is_target = labels != IGNORE_INDEX
    targets = labels[is_target].to(log_rates.device).float()
    loss = nn.functional.poisson_nll_loss(bounded(log_rates[is_target]), targets, reduction="sum")
    return loss / max(len(targets), 1)


def bounded(log_rates: torch.Tensor) -> torch.Tensor:
    """The logarithms of rates in fp32, none so large that its rate overflows."""
    return log_rates.float().clamp(max=LARGEST_LOG_RATE)


# --- the decoder


class FlowOmniSpeechDecoder(MistralPreTrainedModel):
    """
    Causal layers over the steps of an answer's speech. The input of a step is the sum of its speech state, the previous
    patch, the voice, and the byte of the text that is being said. The layers are Mistral's, whatever the language model:
    attention over a window of steps.

    The decoder reads the text at its own pace: each step predicts how many bytes it is read on until the next, and
    generation adds them up. So where a step is in the text needs no attention, which could lose its place, and the end
    of the text is the end of the speech.

    The spelling of a text is always read as it is: no other input tells the words where `reads_hidden_states` is false.
    The hidden state of each byte's token comes through a projection that starts at zero: a decoder that was trained on
    spelling alone speaks on unchanged when it begins to read a language model.
    """

    def __init__(self, config: FlowOmniConfig):
        speech_config, size = config.speech_config, config.speech_config.hidden_size
        super().__init__(self.config_of_layers(config))
        self.spelling = FlowOmniSpelling(config)
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

    def embed_text(
        self,
        text_bytes: torch.LongTensor,
        hidden_states: torch.Tensor | None = None,
        byte_positions: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """
        The vectors (batch_size, num_bytes, hidden_size) of `text_bytes` (batch_size, num_bytes), from their spelling and
        the language model's `hidden_states` (batch_size, num_positions, its hidden_size) at the `byte_positions`
        (batch_size, num_bytes) of their tokens. The end of the text has none.
        """
        text_bytes = text_bytes.to(self.spelling.byte_embedding.weight.device)
        vectors = self.spelling(text_bytes)
        if self.hidden_state_proj is not None and hidden_states is not None:
            # language models differ in the size of their states
            hidden_states = nn.functional.rms_norm(hidden_states.to(vectors.device), hidden_states.shape[-1:])
            hidden_states = self.hidden_state_proj(hidden_states.to(self.hidden_state_proj.weight.dtype))
            index = (
                byte_positions.to(vectors.device).clamp(min=0)[..., None].expand(*text_bytes.shape, vectors.shape[-1])
            )
            is_read = (text_bytes > 0) & (text_bytes != END_OF_TEXT)
            vectors = vectors + hidden_states.gather(1, index) * is_read[..., None]
        return vectors

    def embed_part(
        self, text_bytes: list[int], start: int, end: int, hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The vectors (end - start, hidden_size) of the bytes of one token of a text, whose neighbours are known, from the
        language model's `hidden_states` (its hidden_size,) at the token.
        """
        first = max(0, start - NUM_NEIGHBOURS)
        part = torch.tensor([text_bytes[first : end + NUM_NEIGHBOURS]])
        states = None if hidden_states is None else hidden_states[None, None]
        return self.embed_text(part, states, torch.zeros_like(part))[0, start - first : end - first]

    def lay_out_text(self, vectors: torch.Tensor, byte_steps: torch.LongTensor, num_steps: int) -> torch.Tensor:
        """The text inputs of every step (batch_size, num_steps, hidden_size), from the `vectors` of the bytes."""
        index = places_of_steps(byte_steps, num_steps).to(vectors.device)
        return vectors.gather(1, index[..., None].expand(*index.shape, vectors.shape[-1]))

    def forward(
        self,
        text_inputs: torch.Tensor | None,
        speech_states: torch.LongTensor,
        previous_patches: torch.Tensor | None = None,
        voice_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        position_ids: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """
        The condition of the patch of each step (batch_size, num_steps, hidden_size), from its `text_inputs` in the same
        shape, `speech_states` (batch_size, num_steps), `previous_patches` (batch_size, num_steps, patch_size), and the
        `voice_ids` (batch_size,) of the rows. With a `cache`, one step at a time. `position_ids` (batch_size, num_steps)
        are needed where the rows differ in the number of steps before.
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

        if position_ids is None:
            past_length = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(hidden_states.shape[1], device=device) + past_length)[None]
        position_ids, attention_mask = position_ids.to(device), None
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
