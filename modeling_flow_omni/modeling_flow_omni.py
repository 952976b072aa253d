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
"""The Flow-Omni model: Whisper's encoder and a causal LLM over two parallel streams, and the heads that speak."""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import auto_docstring, can_return_tuple

from .assembling_flow_omni import assemble_from_pretrained_parts
from .audio_encoder import FlowOmniAudioAdapter, FlowOmniAudioEncoder, FlowOmniEmbeddingNorm
from .configuration_flow_omni import FlowOmniConfig
from .flow_head import FlowOmniFlowHead
from .generation_flow_omni import FlowOmniGenerationMixin
from .losses import audio_loss, mean_of_patches, states_loss, text_loss
from .mel_normalizer import FlowOmniMelNormalizer
from .modeling_flow_omni_vocoder import FlowOmniVocoder
from .outputs_flow_omni import FlowOmniModelOutputWithPast, FlowOmniOutputWithPast
from .residual_vq_head import FlowOmniResidualQuantizer, FlowOmniResidualVQHead
from .speech_head import FlowOmniSpeechHead
from .speech_transformer import FlowOmniSpeechTransformer
from .teacher_forcing import FlowOmniTeacherForcingMixin
from .zero_layers import FlowOmniZeroEmbedding, FlowOmniZeroLinear


# the doors of transformers that lead to `FlowOmniForSpeechGeneration`
AUTO_CLASSES = ("AutoModel", "AutoModelForMultimodalLM", "AutoModelForTextToWaveform")
SPEECH_HEADS = {"flow": FlowOmniFlowHead, "residual_vq": FlowOmniResidualVQHead}


@auto_docstring
class FlowOmniPreTrainedModel(PreTrainedModel):
    config: FlowOmniConfig
    base_model_prefix = "model"
    input_modalities = ("audio", "text")
    output_modalities = ("text", "audio")
    supports_gradient_checkpointing = True
    # the head and the adapter run as one unit: split across devices, their layers would mix devices mid-computation
    _no_split_modules = ["FlowOmniFlowHead", "FlowOmniResidualVQHead", "FlowOmniAudioAdapter", "FlowOmniMelNormalizer"]
    _skip_keys_device_placement = ["cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module):
        if self._is_of_the_language_models_kind(module):
            # a norm of Gemma's starts at 0, experts have tensors of their own: the family knows
            self.model.language_model._init_weights(module)
            return
        super()._init_weights(module)
        if isinstance(module, (FlowOmniZeroLinear, FlowOmniZeroEmbedding)):
            init.zeros_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, FlowOmniEmbeddingNorm):
            # as large as new embeddings; of pretrained ones the size is measured when the parts are joined
            init.constant_(module.weight, getattr(self.config.text_config, "initializer_range", 0.02))
        elif isinstance(module, FlowOmniSpeechHead):
            init.zeros_(module.empty_condition)
        elif isinstance(module, FlowOmniResidualQuantizer):
            init.normal_(module.codebooks, std=1.0)
        elif isinstance(module, FlowOmniMelNormalizer):
            mean, std = module.initial_statistics()
            init.copy_(module.mean, mean)
            init.copy_(module.std, std)

    def _is_of_the_language_models_kind(self, module: nn.Module) -> bool:
        """Whether it is one of the speech transformer's layers, or a part of one."""
        transformer = getattr(self, "speech_transformer", None)
        if transformer is None:
            return False
        parts = (part for owner in (transformer.layers, transformer.norm) for part in owner.modules())
        return any(part is module for part in parts)


@auto_docstring(
    custom_intro="""
    The Flow-Omni backbone: Whisper's encoder, the adapter, and a causal language model that reads, at every step, the
    sum of a text token, a speech state and the mel patch of the step before.
    """
)
class FlowOmniModel(FlowOmniPreTrainedModel):
    def __init__(self, config: FlowOmniConfig):
        super().__init__(config)
        hidden_size = config.text_config.hidden_size
        self.audio_encoder = FlowOmniAudioEncoder(config.audio_config)
        self.audio_adapter = FlowOmniAudioAdapter(config)
        self.language_model = AutoModel.from_config(config.text_config)
        # The streams that the language model was not pretrained on start silent: its text stays exactly what it was.
        self.state_embedding = FlowOmniZeroEmbedding(len(config.state_ids), hidden_size)
        self.patch_proj = FlowOmniZeroLinear(config.speech_config.patch_size, hidden_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    @auto_docstring(custom_intro="Encodes heard speech into embeddings of the language model.")
    def get_audio_features(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        input_features (`torch.Tensor` of shape `(num_audios, num_mel_bins, num_frames)`):
            Whisper's log-mel features of the audios, right-padded.
        input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
            1 for frames of speech, 0 for padding.

        Returns:
            The encoder's outputs, and in `pooler_output` the embeddings `(num_audio_tokens, hidden_size)` of all audios,
            one after another, without padding.
        """
        if input_features_mask is None:
            input_features_mask = input_features.new_ones(input_features.shape[0], input_features.shape[-1])
        outputs = self.audio_encoder(input_features, attention_mask=input_features_mask, return_dict=True, **kwargs)
        # the second convolution of the encoder has a stride of two
        encoded_mask = input_features_mask[:, ::2].to(outputs.last_hidden_state.device)
        embeddings, embeddings_mask = self.audio_adapter(outputs.last_hidden_state, encoded_mask)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=embeddings[embeddings_mask.to(embeddings.device)],
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def place_audio(
        self, inputs_embeds: torch.Tensor, input_ids: torch.LongTensor | None, audio_embeddings: torch.Tensor
    ) -> torch.Tensor:
        """`inputs_embeds` (batch_size, num_steps, hidden_size) with `audio_embeddings` in the place of `<|audio|>`."""
        if input_ids is not None:
            is_audio = input_ids == self.config.audio_token_id
        else:
            placeholder = torch.tensor(self.config.audio_token_id, device=inputs_embeds.device)
            is_audio = (inputs_embeds == self.get_input_embeddings()(placeholder)).all(dim=-1)
        if is_audio.sum() != len(audio_embeddings):
            raise ValueError(
                f"Got {int(is_audio.sum())} `<|audio|>` placeholders for {len(audio_embeddings)} steps of encoded audio: "
                "let `FlowOmniProcessor` write the placeholders, with the `adapter_stack_size` of this model, and do not "
                "truncate its `input_ids`."
            )
        is_audio = is_audio[..., None].to(inputs_embeds.device)
        return inputs_embeds.masked_scatter(is_audio, audio_embeddings.to(inputs_embeds.device, inputs_embeds.dtype))

    def embed_streams(
        self,
        inputs_embeds: torch.Tensor,
        speech_states: torch.LongTensor | None,
        previous_patches: torch.Tensor | None,
    ) -> torch.Tensor:
        """Adds the speech states and the previous patches to the text: (batch_size, num_steps, hidden_size)"""
        if speech_states is None:
            speech_states = inputs_embeds.new_full(inputs_embeds.shape[:2], self.config.pad_state_id, dtype=torch.long)
        state_embeds = self.state_embedding(speech_states)
        inputs_embeds = inputs_embeds + state_embeds.to(inputs_embeds.device, inputs_embeds.dtype)
        if previous_patches is None:
            return inputs_embeds
        # no bias: where there is no previous patch, its zeros add nothing
        patch_embeds = self.patch_proj(previous_patches.to(self.patch_proj.weight.dtype))
        return inputs_embeds + patch_embeds.to(inputs_embeds.device, inputs_embeds.dtype)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        speech_states: torch.LongTensor | None = None,
        previous_patches: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> FlowOmniModelOutputWithPast:
        r"""
        input_features (`torch.Tensor` of shape `(num_audios, num_mel_bins, num_frames)`, *optional*):
            Whisper's log-mel features of the audios, in the order of their placeholders in `input_ids`.
        input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
            1 for frames of speech, 0 for padding.
        speech_states (`torch.LongTensor` of shape `(batch_size, num_steps)`, *optional*):
            The speech state of every step. Defaults to `pad` throughout.
        previous_patches (`torch.Tensor` of shape `(batch_size, num_steps, frames_per_step * num_mel_bins)`, *optional*):
            The normalised patch of the step before, zeros where that step has none.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)

        audio_embeddings = None
        if input_features is not None:
            audio_outputs = self.get_audio_features(input_features, input_features_mask, return_dict=True)
            audio_embeddings = audio_outputs.pooler_output
            inputs_embeds = self.place_audio(inputs_embeds, input_ids, audio_embeddings)

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=self.embed_streams(inputs_embeds, speech_states, previous_patches),
            use_cache=use_cache,
            **kwargs,
        )
        if cache is not None and outputs.cache is not cache:
            raise ValueError(
                f"{type(self.language_model).__name__} was given a {type(cache).__name__} and returned another cache "
                f"({type(outputs.cache).__name__}): generation would go on without its past. This family has a cache of its own, "
                "or an older argument for it: choose another language model, or install the transformers that it was written for."
            )
        return FlowOmniModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            audio_hidden_states=audio_embeddings,
        )


@auto_docstring(
    custom_intro="""
    Flow-Omni with its heads: it listens and reads, writes and speaks. Beside the backbone it has a text head, a state
    head, the speech transformer, a speech head that draws mel patches, and, if the config has one, a vocoder.
    """
)
class FlowOmniForSpeechGeneration(FlowOmniPreTrainedModel, FlowOmniTeacherForcingMixin, FlowOmniGenerationMixin):
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _keep_in_fp32_modules_strict = ["mel_normalizer", "istft"]
    # Each loss is a mean over its own kind of target (tokens, states, patches), so one count of items cannot scale them
    # all: the Trainer must divide by the accumulation steps itself, which any `**kwargs` in `forward` would prevent.
    accepts_loss_kwargs = False

    def __init__(self, config: FlowOmniConfig):
        super().__init__(config)
        hidden_size = config.text_config.hidden_size
        self.model = FlowOmniModel(config)
        self.speech_transformer = FlowOmniSpeechTransformer(config, self.model.language_model)
        self.speech_head = SPEECH_HEADS[config.speech_config.head_type](config)
        self.lm_head = nn.Linear(hidden_size, config.text_config.vocab_size, bias=False)
        self.state_head = nn.Linear(hidden_size, len(config.state_ids))
        self.mel_normalizer = FlowOmniMelNormalizer(config.speech_config)
        self.vocoder = FlowOmniVocoder(config.vocoder_config) if config.vocoder_config is not None else None
        self.post_init()
        self.freeze_fixed_parts()

    def freeze_fixed_parts(self) -> None:
        """What no loss of this model may move: Whisper's sinusoids, and the vocoder, which is trained on its own."""
        self.model.audio_encoder.embed_positions.requires_grad_(False)
        if self.vocoder is not None:
            self.vocoder.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Loads as every model does. Loading makes every parameter trainable, so the fixed parts are frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_fixed_parts()
        return loaded

    @classmethod
    def from_pretrained_parts(cls, whisper: str, llm: str, vocoder: str | None = None, **kwargs):
        """
        Joins a pretrained Whisper, a causal LLM and a Vocos into one model, with nothing of them lost. What connects
        them is new and wants training.

        Args:
            whisper (`str`):
                Hub id or folder of a Whisper in transformers' format, the path of an openai-whisper `.pt` file, or the
                name of one of openai-whisper's models.
            llm (`str`):
                Hub id or folder of a causal language model.
            vocoder (`str`, *optional*):
                Hub id or folder of a Vocos, as published (`config.yaml`) or saved by this package.
            kwargs:
                `dtype` of the model; all else are fields of [`FlowOmniConfig`], such as `speech_config`.
        """
        return assemble_from_pretrained_parts(cls, whisper, llm, vocoder, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """Saves as every model does, with an `auto_map` that leads each of transformers' doors to the code saved beside."""
        if self._auto_class is not None and type(self).__module__ != "__main__":
            auto_map = dict(getattr(self.config, "auto_map", None) or {})
            own_name = f"{type(self).__module__.rsplit('.', 1)[-1]}.{type(self).__name__}"
            self.config.auto_map = auto_map | dict.fromkeys(AUTO_CLASSES, own_name)
        # a generation config that was derived from the model's config would lose its speech options on being loaded
        self.generation_config._from_model_config = False
        super().save_pretrained(save_directory, **kwargs)

    def get_audio_features(self, *args, **kwargs):
        return self.model.get_audio_features(*args, **kwargs)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        speech_states: torch.LongTensor | None = None,
        previous_patches: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        state_labels: torch.LongTensor | None = None,
        mel_labels: torch.Tensor | None = None,
        audio_labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> FlowOmniOutputWithPast:
        r"""
        input_features (`torch.Tensor` of shape `(num_audios, num_mel_bins, num_frames)`, *optional*):
            Whisper's log-mel features of the audios, in the order of their placeholders in `input_ids`.
        input_features_mask (`torch.Tensor` of shape `(num_audios, num_frames)`, *optional*):
            1 for frames of speech, 0 for padding.
        speech_states (`torch.LongTensor` of shape `(batch_size, num_steps)`, *optional*):
            The speech state of every step. Defaults to `pad` throughout.
        previous_patches (`torch.Tensor` of shape `(batch_size, num_steps, frames_per_step * num_mel_bins)`, *optional*):
            The normalised patch of the step before, zeros where that step has none (inference; training passes
            `mel_labels`).
        labels (`torch.LongTensor` of shape `(batch_size, num_steps)`, *optional*):
            Text targets, aligned with `input_ids` (the model shifts them); -100 is ignored.
        state_labels (`torch.LongTensor` of shape `(batch_size, num_steps)`, *optional*):
            Speech state targets, aligned with `speech_states` (the model shifts them); -100 is ignored.
        mel_labels (`torch.Tensor` of shape `(batch_size, max_patches, frames_per_step, num_mel_bins)`, *optional*):
            Log-mel targets, right-padded: the patches of each row's `generating` steps, in order. The model also reads
            them as the previous patches (teacher forcing).
        audio_labels (`torch.LongTensor` of shape `(num_audios, max_labels)`, *optional*):
            The tokens that are said in each audio of `input_features`, padded with -100: what the adapter is to hear.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if audio_labels is not None and input_features is None:
            raise ValueError("`audio_labels` say what is heard in `input_features`: pass these too.")
        patches = None
        if mel_labels is not None:
            patches, previous_patches = self.prepare_targets(mel_labels, speech_states, previous_patches)
        batch_size, num_steps = (input_ids if input_ids is not None else inputs_embeds).shape[:2]
        if use_cache is None:
            use_cache = labels is None and mel_labels is None and getattr(self.config.text_config, "use_cache", True)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config.text_config)
        if cache is not None:
            self.speech_transformer.extend_cache(cache)
        if position_ids is None:
            past_length = cache.get_seq_length() if cache is not None else 0
            device = (input_ids if input_ids is not None else inputs_embeds).device
            position_ids = (torch.arange(num_steps, device=device) + past_length).unsqueeze(0)
        # made before the language model runs: masks are sized by the cache as it was before this call
        attention_mask, speech_mask = self.prepare_masks(attention_mask, cache, position_ids, batch_size, num_steps)
        run = partial(
            self.run_transformers,
            speech_states=speech_states,
            speech_mask=speech_mask,
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        fed_back_patches = previous_patches
        # at inference they are the model's own, and left as they are
        if self.training and mel_labels is not None:
            previous_patches, fed_back_patches = self.prepare_patches_to_learn_from(
                run, previous_patches, speech_states
            )

        outputs, condition = run(previous_patches=previous_patches, fed_back_patches=fed_back_patches)
        hidden_states = outputs.last_hidden_state
        state_logits = self.state_head(condition)
        heard_loss = None
        if audio_labels is not None:
            heard_loss = self.compute_audio_loss(
                outputs.audio_hidden_states, input_features, input_features_mask, audio_labels
            )
        losses = self.compute_losses(
            hidden_states, condition, state_logits, speech_states, labels, state_labels, patches, heard_loss
        )
        logits = None
        if labels is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])
        return FlowOmniOutputWithPast(
            **losses,
            logits=logits,
            state_logits=state_logits,
            condition=condition,
            cache=cache if use_cache else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def run_transformers(
        self,
        previous_patches: torch.Tensor | None,
        fed_back_patches: torch.Tensor | None,
        speech_mask: torch.Tensor | None,
        position_ids: torch.LongTensor,
        cache: Cache | None = None,
        use_cache: bool = False,
        **inputs: Any,
    ) -> tuple[FlowOmniModelOutputWithPast, torch.Tensor]:
        """
        The language model's outputs, and what the speech transformer makes of them: the condition of the patch of each step.
        """
        outputs = self.model(
            **inputs,
            position_ids=position_ids,
            cache=cache,
            previous_patches=fed_back_patches,
            use_cache=use_cache,
            return_dict=True,
        )
        hidden_states = outputs.last_hidden_state
        context_patches = previous_patches if self.config.speech_config.clean_context else fed_back_patches
        if context_patches is None:
            context_patches = hidden_states.new_zeros(*hidden_states.shape[:2], self.config.speech_config.patch_size)
        condition = self.speech_transformer(
            hidden_states,
            context_patches,
            attention_mask=speech_mask,
            position_ids=position_ids,
            position_embeddings=self.model.language_model.rotary_emb(
                hidden_states, position_ids, **self.speech_transformer.rotary_options
            ),
            cache=cache,
            use_cache=use_cache,
        )
        return outputs, condition

    def prepare_masks(
        self,
        attention_mask: torch.Tensor | dict | None,
        cache: Cache | None,
        position_ids: torch.LongTensor,
        batch_size: int,
        num_steps: int,
    ) -> tuple[torch.Tensor | dict | None, torch.Tensor | None]:
        """The mask for the language model, and that for the speech transformer, whose layers all have full attention."""
        if isinstance(attention_mask, dict):
            # made by `create_masks_for_generate` for a static cache
            masks = dict(attention_mask)
            speech_mask = masks.pop("speech_transformer")
            return masks.get("language_model", masks), speech_mask
        speech_mask = create_causal_mask(
            config=self.config.text_config,
            inputs_embeds=torch.empty(batch_size, num_steps, 0, dtype=self.dtype, device=position_ids.device),
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        return attention_mask, speech_mask

    def compute_audio_loss(
        self,
        audio_embeddings: torch.Tensor,
        input_features: torch.Tensor,
        input_features_mask: torch.Tensor | None,
        audio_labels: torch.LongTensor,
    ) -> torch.Tensor:
        """How far what is heard is from the tokens of its transcripts, on the terms of the language model's embeddings."""
        if input_features_mask is None:
            input_features_mask = input_features.new_ones(input_features.shape[0], input_features.shape[-1])
        # the encoder halves the frames, the adapter stacks what is left
        num_steps = input_features_mask[:, :: 2 * self.config.adapter_stack_size].sum(dim=-1).long()
        return audio_loss(
            audio_embeddings,
            num_steps,
            self.get_input_embeddings().weight,
            audio_labels,
            self.config.audio_blank_token_id,
        )

    def compute_losses(
        self,
        hidden_states: torch.Tensor,
        condition: torch.Tensor,
        state_logits: torch.Tensor,
        speech_states: torch.LongTensor | None,
        labels: torch.LongTensor | None,
        state_labels: torch.LongTensor | None,
        patches: torch.Tensor | None,
        heard_loss: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The losses whose targets are given, and under `loss` their weighted sum."""
        config, losses, total = self.config, {}, []
        if labels is not None:
            losses["text_loss"] = text_loss(self.lm_head, hidden_states, labels)
            total.append(config.text_loss_weight * losses["text_loss"])
        if state_labels is not None:
            losses["state_loss"] = states_loss(state_logits, state_labels, config.state_class_weights)
            total.append(config.state_loss_weight * losses["state_loss"])
        if patches is not None:
            is_generating = (speech_states == config.generating_state_id).to(condition.device)
            targets = patches.to(condition.device)[is_generating]
            patch_losses = self.speech_head(condition[is_generating], targets)
            losses["speech_loss"], losses["auxiliary_loss"] = (mean_of_patches(loss) for loss in patch_losses)
            total.append(config.speech_loss_weight * losses["speech_loss"])
            total.append(config.auxiliary_loss_weight * losses["auxiliary_loss"])
        if heard_loss is not None:
            losses["audio_loss"] = heard_loss
            total.append(config.audio_loss_weight * heard_loss)
        if total:
            losses["loss"] = torch.stack([loss.to(total[0].device) for loss in total]).sum()
        return losses


__all__ = ["FlowOmniForSpeechGeneration", "FlowOmniModel", "FlowOmniPreTrainedModel"]
