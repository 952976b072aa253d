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
"""The names of languages, of which data sets have several for each, as Whisper writes them."""

import re


# ISO 639-3, and 639-2 where it differs, with Whisper's code, for the languages that it knows by two letters.
_CODES = """
    afr af  alb sq  amh am  ara ar  arb ar  arm hy  asm as  aze az  azj az  bak ba  baq eu  bel be  ben bn  bod bo
    bos bs  bre br  bul bg  bur my  cat ca  ces cs  chi zh  cmn zh  cym cy  cze cs  dan da  deu de  dut nl  ekk et
    ell el  eng en  est et  eus eu  fao fo  fas fa  fil tl  fin fi  fra fr  fre fr  geo ka  ger de  glg gl  gre el
    guj gu  hat ht  hau ha  heb he  hin hi  hrv hr  hun hu  hye hy  ice is  ind id  isl is  ita it  jav jw  jpn ja
    jv jw  kan kn  kat ka  kaz kk  khk mn  khm km  kor ko  lao lo  lat la  lav lv  lin ln  lit lt  ltz lb  lvs lv
    mac mk  mal ml  mao mi  mar mr  may ms  mkd mk  mlg mg  mlt mt  mon mn  mri mi  msa ms  mya my  nb no  nep ne
    nld nl  nno nn  nob no  nor no  npi ne  oci oc  pan pa  pbt ps  per fa  pes fa  plt mg  pol pl  por pt  pus ps
    ron ro  rum ro  rus ru  san sa  sin si  slk sk  slo sk  slv sl  sna sn  snd sd  som so  spa es  sqi sq  srp sr
    sun su  swa sw  swe sv  swh sw  tam ta  tat tt  tel te  tgk tg  tgl tl  tha th  tib bo  tuk tk  tur tr  ukr uk
    urd ur  uzb uz  uzn uz  vie vi  wel cy  ydd yi  yid yi  yor yo  zho zh  zsm ms
""".split()
WHISPER_CODES = dict(zip(_CODES[::2], _CODES[1::2]))


def whisper_code(language: str) -> str:
    """`en` of `en-us`, `eng` and `English`, `zh` of `cmn`; what Whisper does not know stays as it is."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    name = language.strip().lower()
    code = re.split("[-_]", name)[0]
    return TO_LANGUAGE_CODE.get(name) or WHISPER_CODES.get(code, code)
