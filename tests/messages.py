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
"""Messages of conversations, and what a processor makes of them."""

from sounds import noise, tone


def user(*items):
    return {"role": "user", "content": list(items)}


def assistant(*items):
    return {"role": "assistant", "content": list(items)}


def text(words):
    return {"type": "text", "text": words}


def audio(waveform, **fields):
    return {"type": "audio", "audio": waveform, **fields}


def inputs_of(processor, conversation, **kwargs):
    kwargs = {"add_generation_prompt": True, "return_tensors": "pt"} | kwargs
    return processor.apply_chat_template(conversation, tokenize=True, return_dict=True, **kwargs)


def four_tasks():
    answer = noise(0.3, 8000)
    return [
        [user(audio(tone())), assistant(text("A tone."), audio(answer, sampling_rate=8000))],
        [user(audio(noise())), assistant(text("Noise."))],
        [user(text("Read aloud: one two")), assistant(text("one two"), audio(answer, sampling_rate=8000))],
        [
            {"role": "system", "content": "Be brief."},
            user(text("Hi")),
            assistant(text("Ho"), audio("gone.wav")),
            user(text("Hm")),
            {"role": "assistant", "content": "Yes?"},
        ],
    ]
