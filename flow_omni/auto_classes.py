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
"""The public classes, registered with transformers' Auto classes (`AutoModel`, `AutoProcessor`, `pipeline`, …)."""

import transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from .modeling_flow_omni.configuration_flow_omni import FlowOmniConfig, FlowOmniVocoderConfig
from .modeling_flow_omni.configuration_flow_omni import FlowOmniSpeechConfig as FlowOmniSpeechConfig
from .modeling_flow_omni.generation_flow_omni import FlowOmniGenerateOutput as FlowOmniGenerateOutput
from .modeling_flow_omni.generation_flow_omni import FlowOmniStep as FlowOmniStep
from .modeling_flow_omni.modeling_flow_omni import AUTO_CLASSES, FlowOmniForSpeechGeneration
from .modeling_flow_omni.modeling_flow_omni import FlowOmniModel as FlowOmniModel
from .modeling_flow_omni.modeling_flow_omni_vocoder import FlowOmniVocoder
from .processing.feature_extraction_flow_omni import FlowOmniFeatureExtractor
from .processing.processing_flow_omni import FlowOmniProcessor


AutoConfig.register(FlowOmniConfig.model_type, FlowOmniConfig, exist_ok=True)
AutoConfig.register(FlowOmniVocoderConfig.model_type, FlowOmniVocoderConfig, exist_ok=True)
for _name in AUTO_CLASSES:
    getattr(transformers, _name).register(FlowOmniConfig, FlowOmniForSpeechGeneration, exist_ok=True)
AutoModel.register(FlowOmniVocoderConfig, FlowOmniVocoder, exist_ok=True)
AutoFeatureExtractor.register(FlowOmniConfig, FlowOmniFeatureExtractor, exist_ok=True)
AutoProcessor.register(FlowOmniConfig, FlowOmniProcessor, exist_ok=True)

# `save_pretrained` copies the code into the checkpoint, which `trust_remote_code=True` loads without this package.
FlowOmniConfig.register_for_auto_class()
FlowOmniVocoderConfig.register_for_auto_class()
FlowOmniForSpeechGeneration.register_for_auto_class("AutoModel")
FlowOmniVocoder.register_for_auto_class("AutoModel")
FlowOmniFeatureExtractor.register_for_auto_class()
FlowOmniProcessor.register_for_auto_class()
