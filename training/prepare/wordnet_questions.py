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
"""Questions, requests and short statements about the words and names of WordNet: templates, filled with its entries."""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import NamedTuple

from ..data import uniform
from .texts import MAX_WORDS


NUM_QUESTIONS = 20_000
# the alphabet of the adapter's CTC, with the punctuation of sentences
WRITABLE = re.compile(r"[A-Za-z' ,.?!-]+")
WORD = re.compile(r"[A-Za-z'-]+")
MIN_FORMS = 2  # of the least known entry of a category
MIN_USES = 30  # of the word for the kind of a thing: "a vertebrate foot" is unusual
MAX_FRACTION = 0.5  # of the templates, for the best known entry


class Category(NamedTuple):
    """Entries of one of WordNet's lexicographer files (`18`: persons) below `classes`, the `limit` best known of them."""

    file: str
    classes: str
    limit: int
    templates: str
    is_named: bool = True
    article: str = ""  # before every name: "the" Danube


PLACE = """
Where is {the}?|Can you tell me where {the} is?|Do you know where {the} is?|Tell me about {the}.|What is {the} famous for?
Have you ever been to {the}?|What do you know about {the}?|How do I get to {the}?|I want to know more about {the}.
Could you please tell me something about {the}?|How far away is {the}?|What is the history of {the}?|Is {the} worth a visit?
"""
COUNTRY = """
What is the capital of {the}?|What's the capital of {the}?|Which city is the capital of {the}?|Name the capital of {the}.
Can you tell me the capital of {the}?|Do you know the capital city of {the}?|What language do people speak in {the}?
Which languages are spoken in {the}?|How many people live in {the}?|Which countries border {the}?|Is {the} in Europe?
Which continent is {the} on?|What is the currency of {the}?|How big is {the}?|Who is the president of {the}?
What is the largest city in {the}?|Name three cities in {the}.|What do people eat in {the}?|Is {the} an island?
What is the weather like in {the}?|What does the flag of {the} look like?|When did {the} become independent?
{The} is a country.|{The} is a country in {whole}.|Is {the} a country in {whole}?|Why do people travel to {the}?
My family comes from {the}.|How cold is it in {the}?|I would like to travel to {the}.|What is the highest mountain in {the}?
"""
CAPITAL = """
The capital of {whole} is {name}.|{name} is the capital of {whole}.|Is {name} the capital of {whole}?
Of which country is {name} the capital?|{name} is the capital of which country?|Where in {whole} is {name}?
"""
CITY = """
Which country is {name} in?|What country is {name} in?|In which country is {name}?|How many people live in {name}?
Is {name} a big city?|What can I see in {name}?|What is the weather like in {name}?|Is {name} in {whole}?
{name} is a city in {whole}.|How old is the city of {name}?|What is the best time to visit {name}?|I was born in {name}.
Is there an airport in {name}?|Recommend a restaurant in {name}.|What time is it in {name}?
"""
STATE = """
What is the capital of {name}?|Which cities are in {name}?|Is {name} a state?|How many people live in {name}?|How big is {name}?
Which river flows through {name}?|{name} is in {whole}.|Who is the governor of {name}?
"""
WATER = """
How deep is {the}?|Which countries border {the}?|Are there sharks in {the}?|Can you swim in {the}?|How big is {the}?
How cold is the water in {the}?|Which fish live in {the}?
"""
RIVER = """
How long is {the}?|Where does {the} begin?|Through which countries does {the} flow?|Which cities are on {the}?|{The} is a river.
Is {the} longer than the Nile?|Into which sea does {the} flow?|Can ships sail on {the}?|{The} is a river in {whole}.
"""
MOUNTAIN = """
How high is {the}?|Who first climbed {the}?|Is {the} a volcano?|Is there snow on {the}?|Which country is {the} in?
{The} is in {whole}.|How long does it take to climb {the}?
"""
RANGE = """
Tell me about {the}.|Have you ever been to {the}?|How do I get to {the}?|Can you tell me something about {the}?|Who lives in {the}?
Which animals live in {the}?|Can I ski in {the}?|What do you know about {the}?|Name a mountain in {the}.|Who first crossed {the}?
What is the highest peak of {the}?|I would like to hike in {the}.|Which countries share {the}?
"""
ISLAND = """
Which country does {the} belong to?|How many people live on {the}?|How do I travel to {the}?
Are there beaches on {the}?
"""
CONTINENT = """
How many countries are in {the}?|What is the largest country in {the}?|What is the longest river in {the}?|How big is {the}?
Which animals live in {the}?|What is the highest mountain in {the}?|Is {the} a continent?|{The} is a continent.
Name a country in {the}.|How many people live in {the}?
"""
PLANET = """
Is {the} a planet?|How far is {the} from the sun?|Does {the} have moons?|How big is {the}?|Is there life on {the}?|{The} is a planet.
How long is a day on {the}?|Who discovered {the}?|What color is {the}?|Can we see {the} at night?|How hot is it on {the}?
What is {the} made of?|Is {the} bigger than the moon?|Have people landed on {the}?|Where is {the}?|Tell me about {the}.
Is there water on {the}?|How many moons does {the} have?|Which planet is closest to {the}?
"""
PERSON = """
Who {was} {name}?|Can you tell me who {name} {was}?|Do you know who {name} {was}?|When was {name} born?|Where was {name} born?
Tell me about {name}.|What {was} {name} famous for?|What do you know about {name}?|I want to know more about {name}.
Have you heard of {name}?|Which country did {name} come from?|Please tell me something about the life of {name}.
Why is {name} famous?|Where did {name} live?|When did {late} die?|How old was {late} at the time of death?|How did {late} die?
{name} {was} {occupation}.|{name} {was} {described}.|{Was} {name} {occupation}?|What did {name} do?|Describe {name} in one sentence.
"""
WRITER = """
Did {name} write any poems?|Which books did {name} write?|What is the best book by {name}?|Name a book by {name}.
Did {name} write plays?|When did {name} start to write?|Have you read anything by {name}?
"""
COMPOSER = """
What music did {name} compose?|Name a work by {name}.|Did {name} write an opera?|Which instrument did {name} play?
Can you play something by {name}?|How many symphonies did {name} write?
"""
PAINTER = (
    "Did {name} paint portraits?|Name a painting by {name}.|Where can I see works by {name}?|What did {name} paint?"
)
SCIENTIST = """
What did {name} discover?|What did {name} invent?|Did {name} win the Nobel Prize?|Where did {name} study?|Explain the work of {name}.
"""
THINKER = "What did {name} teach?|What did {name} believe?|Can you quote {name}?|What did {name} write about?"
RULER = """
When did {name} come to power?|Was {name} a good leader?|Who came after {name}?|Who ruled before {name}?|Did {name} win the war?
"""
EXPLORER = (
    "Where did {name} sail?|What did {name} discover?|Did {name} ever reach America?|Which seas did {name} cross?"
)
PERFORMER = "Which films did {name} make?|Did {name} sing?|When did {name} become famous?|Did {name} win any prizes?"
DEITY = """
Who was {name}?|Is {name} a god?|Tell me the story of {name}.|Was {name} real?|Who believed in {name}?
"""
EVENT = """
When did {the} begin?|When did {the} end?|Who won {the}?|Why did {the} start?|Tell me about {the}.|Who fought in {the}?
How long did {the} last?|What caused {the}?|Can you explain {the}?
"""
THING = """
What is {a}?|What does the word {name} mean?|Is {a} {kind}?|{A} is {kind}.|Tell me about {many}.|How do you spell {name}?
What is the difference between {a} and {other}?|Can you explain what {a} is?|Can you describe {a}?
"""
ANIMAL = """
Is {a} an animal?|What do {many} eat?|Where do {many} live?|What sound does {a} make?|How many legs does {a} have?|Can {many} swim?
How long do {many} live?|Are {many} dangerous?|How big is {a}?|Why do {many} sleep?|Can {a} fly?|Do {many} lay eggs?
How fast can {a} run?|What is a baby {name} called?|Do {many} make good pets?|What color is {a}?|I saw {a} yesterday.
Is {a} bigger than {other}?|Do {many} bite?|What do you call a group of {many}?
"""
PLANT = """
How do you grow {many}?|Is {a} a plant?|Where do {many} grow?|Are {many} poisonous?|How tall is {a}?|When do {many} bloom?
Do {many} need much water?|What does {a} look like?|Is {a} a tree?|Can I plant {a} in my garden?
"""
FOOD = """
How do you make {many}?|How do you cook {many}?|Can I eat {many} every day?|What does {a} taste like?|Do you like {many}?
Can dogs eat {many}?|Where can I buy {many}?|What goes well with {many}?|How long can you keep {many} in the fridge?
Which country is famous for its {many}?|Give me a recipe with {many}.|Please buy {many}, milk and butter.|What is {a} made of?
"""
BODY = """
Where is the {name}?|What does the {name} do?|Why does my {name} hurt?|Do animals have {a}?|Which doctor treats the {name}?
How big is the human {name}?|Is the {name} part of the body?|Tell me how the {name} works.|Can you live without {a}?
"""
MATERIAL = """
What is {name} used for?|Where does {name} come from?|Is {name} heavy?|How is {name} made?|Who discovered {name}?|Can {name} burn?
What color is {name}?|What is made of {name}?|Is {name} dangerous?|How much does {name} cost?|Is {name} a metal?|Does {name} float?
"""
ARTIFACT = """
What is {a} used for?|How does {a} work?|Who invented the {name}?|How much does {a} cost?|Where can I buy {a}?|What is {a} made of?
How do you use {a}?|Do I need {a}?|When was the first {name} made?|How do you clean {a}?|Can you help me choose {a}?
"""
OCCUPATION = """
What does {a} do?|How do I become {a}?|How much does {a} earn?|Name a famous {name}.|Where does {a} work?|Do you know a good {name}?
My sister is {a}.|What does {a} need to know?|Why do people become {many}?|Is it hard to be {a}?|Would you like to be {a}?
How many {many} are there?|Who is the most famous {name}?|What tools does {a} use?
"""
WORD_ANY = """
What does {name} mean?|How do you spell {name}?|Use the word {name} in a sentence.|What is another word for {name}?
Can you give me a definition of {name}?|How do you pronounce {name}?|How do you say {name} in French?
What does the word {name} mean?|Explain the word {name}, please.
"""
ADJECTIVE = (
    WORD_ANY
    + "What is the opposite of {antonym}?|Is {antonym} the opposite of {opposite}?|Name something that is {name}."
)
VERB = """
What does it mean to {name}?|What is the past tense of {name}?|How do you say {name} in Spanish?|Use the verb {name} in a sentence.
How do you {alone}?|Why do people {alone}?|Can you teach me how to {alone}?|Do you like to {alone}?
Can you {alone}?|When do people {alone}?|Why would you {verb} something?|What does it mean to {verb} something?
Did you {verb} it?|How do you {verb} something?|Why did they {verb} it?|Please {verb} it again.|Can I {verb} it?
Who should {verb} it?|Would you {verb} somebody?|Never {alone} without a reason.
"""
CATEGORIES = (
    Category("15", "country", 230, PLACE + COUNTRY),
    Category("15", "national_capital", 190, PLACE + CITY + CAPITAL),
    Category("15", "American_state Canadian_province Australian_state", 70, PLACE + STATE),
    Category("15", "city town state_capital", 230, PLACE + CITY),
    Category("17", "continent", 10, PLACE + CONTINENT),
    Category("17", "planet", 12, PLANET),
    Category("17", "ocean sea gulf", 45, PLACE + WATER, article="the"),
    Category("17", "lake bay", 40, PLACE + WATER),
    Category("17", "river", 70, PLACE + RIVER, article="the"),
    Category("17", "range", 30, RANGE, article="the"),
    Category("17", "mountain mountain_peak", 40, PLACE + MOUNTAIN),
    Category("15 17", "island", 60, PLACE + ISLAND),
    Category("15", "desert", 20, PLACE + "How hot is {the}?|Is {the} a desert?|Who lives in {the}?", article="the"),
    Category("18", "saint", 30, PERSON),
    Category("18", "deity", 90, DEITY),
    Category("18", "writer", 180, PERSON + WRITER),
    Category("18", "composer", 70, PERSON + COMPOSER),
    Category("18", "painter sculptor architect", 70, PERSON + PAINTER),
    Category("18", "scientist mathematician inventor", 150, PERSON + SCIENTIST),
    Category("18", "philosopher theologian economist", 60, PERSON + THINKER),
    Category("18", "sovereign head_of_state statesman general politician", 180, PERSON + RULER),
    Category("18", "explorer navigator", 40, PERSON + EXPLORER),
    Category("18", "performer athlete film_maker", 110, PERSON + PERFORMER),
    Category("18", "person", 80, PERSON),
    Category("04", "war", 40, EVENT),
    Category("05", "animal", 170, THING + ANIMAL, is_named=False),
    Category("20", "plant", 90, THING + PLANT, is_named=False),
    Category("13", "food foodstuff", 150, THING + FOOD, is_named=False),
    Category("08", "body_part", 70, THING + BODY, is_named=False),
    Category(
        "27",
        "metallic_element chemical_element alloy mineral building_material fuel rock wood",
        60,
        MATERIAL,
        is_named=False,
    ),
    Category("06", "instrumentality structure clothing", 230, THING + ARTIFACT, is_named=False),
    Category("18", "worker professional artist scientist entertainer", 110, OCCUPATION, is_named=False),
    Category("09 12 07 26 11", "", 330, WORD_ANY, is_named=False),
    Category("00", "", 300, ADJECTIVE, is_named=False),
    Category("29 30 31 32 33 34 35 36 37 38 39 40 41 42 43", "", 330, VERB, is_named=False),
)
IRREGULAR = {"foot": "feet", "tooth": "teeth", "goose": "geese", "mouse": "mice", "ox": "oxen", "child": "children"}
IRREGULAR |= {
    name: name for name in ("sheep", "deer", "fish", "salmon", "trout", "squid", "cod", "scissors", "glasses")
}
IRREGULAR |= {
    "wolf": "wolves",
    "calf": "calves",
    "leaf": "leaves",
    "loaf": "loaves",
    "knife": "knives",
    "wife": "wives",
}
IRREGULAR |= {"shelf": "shelves", "half": "halves", "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes"}
# names of countries, islands and buildings that stand with an article
WITH_ARTICLE = re.compile(
    r"(?!World)((United|Gambia|Soviet|Ivory|Holy|Dominican|Central African|Czech|Netherlands|Philippines|Bahamas|Vatican$|Arctic|Antarctic)\b"
    r"|.*\b(War|Wars|Revolution|Sea|Republic|Islands|Union|Emirates|Indies|Empire|Kingdom|Maldives|Seychelles|Comoros)\b|.*(Bay|Gulf|Bight|Strait|Sea|Isle) of .*)"
)


@dataclass(eq=False)
class Entry:
    """A synset: its words, the entries it points to (`links`, by symbol), and what the gloss says."""

    file: str
    kind: str
    words: list[str]
    pointers: list[tuple[str, str]]
    frames: set[int]
    gloss: str
    links: dict[str, list["Entry"]] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """A person's full name, Mount Everest rather than Everest, and otherwise the first word."""
        first = self.words[0]
        if "@i" not in self.links or self.file not in ("17", "18"):
            return first
        whole = rf"[A-Z].+ {first.split()[-1]}" if self.file == "18" else rf"(Mount|Lake) {first}|{first} Sea"
        return next((word for word in self.words if re.fullmatch(whole, word) and "." not in word), first)

    @cached_property
    def ancestors(self) -> set[str]:
        """The first words of all classes that it belongs to."""
        parents = self.links.get("@i", []) + self.links.get("@", [])
        return {parent.words[0].replace(" ", "_") for parent in parents}.union(
            *(parent.ancestors for parent in parents)
        )


def wordnet_questions(folder: str | Path, excluded: Collection[str] = ()) -> Iterator[dict]:
    """
    Rows with questions about WordNet's entries, in a fixed random order. The best known entries, whose words its glosses
    use most, come in most forms. Texts that equal one of `excluded`, in letters, are left out: those test the model.
    """
    entries = read_entries(folder)
    counts = _counts(entries)
    taken: set[Entry] = set()  # each entry is in the first category that has it
    forms = (text for category in CATEGORIES for text in _texts_of(category, entries, counts, taken))
    left_out = {_letters(text) for text in excluded}
    texts = {_letters(text): text for text in forms if WRITABLE.fullmatch(text) and len(text.split()) <= MAX_WORDS}
    chosen = sorted(
        (text for key, text in texts.items() if key not in left_out), key=lambda text: uniform("order", text)
    )
    for number, text in enumerate(chosen[:NUM_QUESTIONS], start=1):
        yield {"id": f"wordnet-question-{number}", "question_text": text}


def read_entries(folder: str | Path) -> list[Entry]:
    """The entries whose name has no other meaning with more pointers: Paris is the city, rather than the plant."""
    files = sorted(Path(folder).glob("data.*"))
    if not files:
        raise FileNotFoundError(f"There is no WordNet in '{folder}': `flow-omni prepare parts` downloads it.")
    entries: dict[tuple[str, str], Entry] = {}
    for line in (line for file in files for line in file.read_text(encoding="utf-8").splitlines()):
        if line.startswith(" "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        offset, file, kind, num_words, *fields = head.split()
        num_words = 2 * int(num_words, 16)
        words = [word.partition("(")[0].replace("_", " ") for word in fields[:num_words:2]]
        num_pointers, fields = 4 * int(fields[num_words]), fields[num_words + 1 :]
        pointers = [(fields[i], fields[i + 2] + fields[i + 1]) for i in range(0, num_pointers, 4)]
        # a verb's frames are "+ frame word", of which word 00 means all
        frames = {int(frame) for frame in fields[num_pointers + 2 :: 3]}
        kind = kind.replace("s", "a")
        entries[kind + offset] = Entry(file, kind, words, pointers, frames, gloss.strip())
    for entry in entries.values():
        for symbol, target in entry.pointers:
            if target in entries:
                entry.links.setdefault(symbol, []).append(entries[target])
    main: dict[str, int] = {}
    for entry in entries.values():
        for word in entry.words:
            main[word] = max(main.get(word, 0), len(entry.pointers))
    return [entry for entry in entries.values() if len(entry.pointers) == main[entry.name]]


def _counts(entries: list[Entry]) -> Counter:
    """How often the glosses use each sequence of one to three words that an entry names, and such with an article."""
    names = {word for entry in entries for word in entry.words}
    names |= {_a(name) for name in names} | {_plural(name) for name in names}
    counts = Counter()
    for entry in entries:
        words = WORD.findall(entry.gloss)
        for size in (1, 2, 3):
            sequences = (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))
            counts.update(sequence for sequence in sequences if sequence in names)
    return counts


def _texts_of(category: Category, entries: list[Entry], counts: Counter, taken: set[Entry]) -> Iterator[str]:
    templates = [template for template in re.split(r"[|\n]", category.templates) if template]
    classes, files = set(category.classes.split()), category.file.split()
    candidates = (entry for entry in entries if entry.file in files and entry not in taken)
    candidates = (entry for entry in candidates if not classes or classes & entry.ancestors)
    fame = {
        entry: sum(counts[word] for word in {entry.words[0], entry.name}) + len(entry.pointers)
        for entry in candidates
        if (_is_name(entry) if category.is_named else _is_common(entry, counts))
    }
    ranked = sorted(fame, key=lambda entry: -fame[entry])[: category.limit]
    taken.update(ranked)
    for rank, entry in enumerate(ranked):
        fields = _fields(entry, category, counts, ranked[rank - 1])
        usable = [
            text for text in templates if all(fields.get(name) for _, name, *_ in Formatter().parse(text) if name)
        ]
        # statements, which are few, come early
        usable.sort(key=lambda template: uniform(template, entry.name) * (0.2 if template.startswith("{") else 1.0))
        num_forms = max(MIN_FORMS, round(MAX_FRACTION * len(usable) * (1 - rank / len(ranked))))
        for template in usable[:num_forms]:
            text = template.format(**fields)
            yield text[:1].upper() + text[1:]


def _fields(entry: Entry, category: Category, counts: Counter, other: Entry) -> dict[str, str]:
    """What the templates may name. Those that use an empty field are left out."""
    name = entry.name
    the = f"the {name}" if category.article or (entry.file != "18" and WITH_ARTICLE.match(name)) else name
    fields = {"name": name, "the": the, "The": the[:1].upper() + the[1:]}
    if category.is_named:
        wholes = [whole for whole in entry.links.get("#p", []) if whole.file in ("15", "17") and "@i" in whole.links]
        if wholes:
            whole = wholes[0].name
            fields["whole"] = f"the {whole}" if WITH_ARTICLE.match(whole) else whole
        is_alive = re.search(r"\(born (in )?\d", entry.gloss)
        fields |= {"was": "is" if is_alive else "was", "late": "" if is_alive else name}
        fields["Was"] = fields["was"].capitalize()
        occupation = entry.links["@i"][0].words[0]
        fields["occupation"] = _a(occupation) if occupation.islower() else ""
        described = re.split(r"[;,(]| who| whose| noted| known| remembered| that| and | born", entry.gloss)[0].strip()
        described = described.replace("United States", "American")
        if described.endswith(occupation) and described != occupation and not described.startswith(("the ", "a ")):
            fields["described"] = _a(described)
    elif entry.kind == "v":
        fields |= {"alone": name if 2 in entry.frames else "", "verb": name if 8 in entry.frames else ""}
    elif entry.kind == "a":
        opposites = entry.links.get("!", [])
        fields |= {"antonym": name, "opposite": opposites[0].name} if opposites else {}
    else:
        kinds = entry.links.get("@", [])
        fields["a"], fields["many"] = _generic(entry, counts)
        fields["A"] = fields["a"].capitalize()
        fields["other"] = _generic(other, counts)[0]
        fields["kind"] = _generic(kinds[0], counts)[0] if kinds and counts[kinds[0].name] >= MIN_USES else ""
    return fields


def _is_name(entry: Entry) -> bool:
    """Without a Roman number, which engines read in different ways."""
    return "@i" in entry.links and entry.name[0].isupper() and not re.search(r" [IVX]+$", entry.name)


def _is_common(entry: Entry, counts: Counter) -> bool:
    """A word of daily use; of foods, such as lemon juice, two words, and of artifacts what is counted."""
    num_words = 1 + entry.name.count(" ")
    is_usual = "@i" not in entry.links and entry.name.islower() and len(entry.name) > 2
    return is_usual and num_words <= 1 + (entry.file == "13") and (entry.file != "06" or _is_counted(entry, counts))


def _is_counted(entry: Entry, counts: Counter) -> bool:
    """Whether the glosses give it an article or a plural, at least now and then."""
    return counts[_a(entry.name)] + counts[_plural(entry.name)] >= counts[entry.name] / 6


def _generic(entry: Entry, counts: Counter) -> tuple[str, str]:
    """`("an apple", "apples")`; of a food or a substance that is not counted, `("bread", "bread")`."""
    is_mass = entry.file in ("13", "27") and not _is_counted(entry, counts)
    return (entry.name, entry.name) if is_mass else (_a(entry.name), _plural(entry.name))


def _a(name: str) -> str:
    is_vowel = re.match(r"(?!uni(?!n|m)|eu|use|one|uk|ura|ute)[aeiou]|hono|hour|heir", name, re.IGNORECASE)
    return f"{'an' if is_vowel else 'a'} {name}"


def _plural(name: str) -> str:
    head, _, last = name.rpartition(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith("man") and last not in ("human", "German", "Roman"):
        last = last[:-3] + "men"
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    else:
        last = re.sub(r"(?<![aeiou])y$", "ie", last) + "s"
    return f"{head} {last}".strip()


def _letters(text: str) -> str:
    return " ".join(WORD.findall(text.lower().replace("-", " ")))
