"""The demo model's template stories, drawn from a random generator; it may not import torch."""

from random import Random

GIRLS = "Lily Mia Anna Ella Ruby Sara Nora Emma Lucy Rosa Clara Ida Zoe Alice Maya Luna".split()
BOYS = "Tom Max Ben Leo Sam Finn Oscar Jack Noah Hugo Otto Paul Adam Theo Felix Milo".split()
ANIMALS = (
    "fox rabbit bear mouse cat dog owl frog duck hedgehog squirrel turtle pony lamb penguin "
    "beaver badger goat deer elephant lion tiger wolf pig hen cow horse sheep bird fish bee ant "
    "spider snake monkey whale dolphin otter mole parrot kitten puppy crab snail donkey"
).split()
PEOPLE = (
    "boy girl robot dragon princess prince king queen wizard witch knight pirate farmer baker "
    "giant dwarf fairy ghost child sailor cook doctor teacher painter gardener unicorn monster "
    "astronaut detective"
).split()
HE = {"boy", "prince", "king", "wizard", "knight"}
SHE = {"girl", "princess", "queen", "witch", "hen", "cow"}
NATURES = "little small young brave kind gentle clever curious cheerful shy friendly happy".split()
PLACES = (
    "in a quiet forest|near a blue lake|on a green hill|in a small village|by the sea|"
    "in a big garden|beside a wide river|at the edge of a wood|in a cosy house|under a tall tree|"
    "on a sunny island|in a deep valley"
).split("|")
THINGS = (
    "red ball|blue kite|golden key|silver bell|wooden boat|warm scarf|yellow hat|small drum|"
    "shiny stone|favourite book|little lamp|green cup"
).split("|")
FOODS = "apple pie|berry jam|honey cake|warm soup|fresh bread|carrot cake|pumpkin soup".split("|")
TOPICS = (
    "friendship|love|the sea|the moon|the rain|a long journey|courage|a birthday|winter|summer|"
    "the forest|kindness|a lost toy|two friends|a storm|the stars|a garden|a family|magic|Christmas"
).split("|")

# A plot is a row of sentences; each sentence is one of several ways to say it.
PLOTS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (
            "One day, {name} lost {his} {thing}.",
            "One morning, {name} could not find {his} {thing}.",
            "One windy day, {his} {thing} was gone.",
        ),
        (
            "{He} looked under the bed and behind the door, but it was not there.",
            "{He} looked everywhere, but {he} could not find it.",
            "{He} searched all day long and felt very sad.",
        ),
        (
            "Then {he} met a {fkind} named {friend}.",
            "On the path {he} met a {fkind} named {friend}.",
            "A {fkind} named {friend} came by and saw that {name} was sad.",
        ),
        (
            '"Do not worry," said {friend}. "I will help you."',
            '"Let us look together," said {friend}.',
            '"I have seen it," said {friend}. "Come with me."',
        ),
        (
            "Together they found the {thing} under an old tree.",
            "They walked to the river, and there was the {thing}.",
            "Soon they found the {thing} in the tall grass.",
        ),
        (
            "{name} was so happy that {he} gave {friend} a big hug.",
            '"Thank you, {friend}!" said {name}.',
            "{name} smiled and thanked {friend}.",
        ),
    ),
    (
        (
            "{name} had no friends and often felt alone.",
            "{name} wished for a friend to play with.",
            "Every day {name} played alone.",
        ),
        (
            "One day, {he} saw a {fkind} sitting by the road.",
            "One morning, a {fkind} moved into the house next door.",
            "Then, on a sunny day, a {fkind} came along.",
        ),
        (
            '"Hello, my name is {name}," {he} said.',
            '"Hello! Will you play with me?" asked {name}.',
            '"Good morning," said {name}. "Who are you?"',
        ),
        (
            '"I am {friend}," said the {fkind}. "I would like to play with you."',
            '"My name is {friend}," said the {fkind}, "and I am looking for a friend too."',
        ),
        (
            "They played with the {thing} until the sun went down.",
            "They ran up the hill and laughed all day.",
            "They shared some {food} and told stories.",
        ),
        (
            "From that day on, {name} was never alone again.",
            "After that, {name} and {friend} met every day.",
            "And so {name} found {his} first friend.",
        ),
    ),
    (
        (
            "One day, {name} wanted to bake for {his} friends.",
            "It was a holiday, and {name} wanted to make some {food}.",
            "{name} was hungry and wanted to make some {food}.",
        ),
        (
            "But there was no flour left in the kitchen.",
            "But the kitchen was empty.",
            "But {he} did not know how to do it.",
        ),
        (
            "So {he} went to ask {his} friend {friend}, the {fkind}.",
            "So {he} visited {friend}, a {fkind} who knew all about cooking.",
            "So {he} took {his} basket and walked to the house of {friend}, the {fkind}.",
        ),
        (
            '"Of course I will help you," said {friend}.',
            '"Come in!" said {friend}. "Let us start."',
            '"We can make it together," said {friend}.',
        ),
        (
            "They worked all afternoon, and the {food} smelled wonderful.",
            "They mixed and stirred, and soon the {food} was ready.",
            "It was hard work, but they had a lot of fun.",
        ),
        (
            "Everyone in the village came to taste the {food}.",
            "They sat down and ate the {food}.",
            "In the evening they shared the {food} with all their friends.",
        ),
    ),
    (
        (
            "One night, a big storm came.",
            "One evening, dark clouds filled the sky.",
            "One day, it began to rain, and it did not stop.",
        ),
        (
            "The wind was loud, and {name} was afraid.",
            "{name} heard the thunder and hid in a corner.",
            "{name} sat by the window and could not sleep.",
        ),
        (
            "Then there was a knock at the door.",
            "Suddenly {he} heard a small voice outside.",
            "Then {he} heard somebody call for help.",
        ),
        (
            "It was {friend}, a {fkind}, who was cold and wet.",
            "It was a tired {fkind} named {friend}.",
            "A {fkind} named {friend} stood in the rain.",
        ),
        (
            '"Come in and sit by the fire," said {name}.',
            '"You can stay here," said {name}.',
            "{name} opened the door and gave {friend} some {food}.",
        ),
        (
            "They talked all night, and {name} was not afraid any more.",
            "{name} forgot {his} fear and felt very brave.",
            "In the morning the sun was shining, and they had become friends.",
        ),
    ),
    (
        (
            "One spring, {name} planted a tiny seed.",
            "One day, {name} found a tiny seed on the path.",
            "In spring, a friend gave {name} a tiny seed.",
        ),
        (
            "{He} gave it water every day.",
            "Every morning {he} gave it water and sang to it.",
            "{He} put it in the ground and waited.",
        ),
        (
            "For a long time nothing happened.",
            "Days went by, and nothing came up.",
            "Weeks passed, and the ground stayed brown.",
        ),
        (
            '"You must be patient," said {friend}, a wise old {fkind}.',
            '"Good things take time," said {his} friend {friend}, the {fkind}.',
            'A {fkind} named {friend} came by and said, "Do not give up."',
        ),
        (
            "Then, one morning, a small green leaf looked out of the ground.",
            "At last a small green plant began to grow.",
            "And one day, there it was: a tiny leaf.",
        ),
        (
            "It grew into the most beautiful flower of all.",
            "In summer it was taller than the house.",
            "Soon it was a tree, and {name} sat in its shade with {friend}.",
        ),
    ),
    (
        (
            "One day, there was a big race.",
            "Every summer there was a great race.",
            "One day, {friend} the {fkind} wanted to race with {name}.",
        ),
        (
            '"I am too slow," thought {name}.',
            "{name} was not fast, but {he} wanted to try.",
            "Everybody laughed, because {name} was so small.",
        ),
        (
            "The race began, and {friend} the {fkind} ran ahead.",
            "They started at noon, and {friend} the {fkind} was far in front.",
        ),
        (
            "But {friend} fell into a hole and could not get out.",
            "Then {friend} stopped to rest and fell asleep.",
            "Halfway up the hill, {friend} hurt a foot and had to stop.",
        ),
        (
            "{name} stopped to help {friend}.",
            '"Wait, I will help you," said {name}.',
            "{name} could have won, but {he} went back for {friend}.",
        ),
        (
            "They crossed the line together, and everybody cheered.",
            "They came in last, but they were the happiest of all.",
            '"You are the real winner," said {friend}.',
        ),
    ),
    (
        (
            "One day, {name} found an old map.",
            "One morning, {name} found a map in a bottle.",
            "{name} had a map that showed the way to a treasure.",
        ),
        (
            "{He} packed some {food} and set off.",
            "{He} took {his} {thing} and began to walk.",
            '"I will find the treasure," {he} said.',
        ),
        (
            "On the way {he} met {friend}, a {fkind} who wanted to come along.",
            "{friend}, {his} best friend, a {fkind}, went with {him}.",
        ),
        (
            "They climbed a high mountain and crossed a deep river.",
            "They walked for three days and three nights.",
            "They went through the dark wood, and they were not afraid.",
        ),
        (
            "At the end of the road they found a small box.",
            "Under a big stone there was a wooden box.",
            "At last they came to a cave with a little box in it.",
        ),
        (
            'In it was a note: "The real treasure is a good friend."',
            "It was full of gold, and they shared it with everybody.",
            "In it was a {thing}, and {name} gave it to {friend}.",
        ),
    ),
)
OPENINGS = (
    "Once upon a time there was a {nature} {kind} named {name} who lived {place}.",
    "Once upon a time, a {nature} {kind} named {name} lived {place}.",
    "There was once a {nature} {kind} named {name}. {He} lived {place}.",
    "Long ago, {place}, there lived a {nature} {kind} named {name}.",
)
ENDINGS = (
    "They lived happily ever after.",
    "And they were happy for the rest of the year.",
    "That night {name} slept very well.",
    "It was the best day of all.",
    "And that is the end of the story.",
    "The end.",
)
BRIDGES = (
    "The next day was very different.",
    "But that is not all.",
    "Some time later, more happened.",
)


def story(rng: Random, kind: str | None = None, name: str | None = None, num_plots: int = 1) -> str:
    """One story of `num_plots` plots; the hero's kind and name are drawn where not given."""
    slots = _cast(rng, kind, name)
    sentences = [rng.choice(OPENINGS)]
    for number, plot in enumerate(rng.sample(PLOTS, num_plots)):
        if number:
            sentences.append(rng.choice(BRIDGES))
        sentences.extend(rng.choice(ways) for ways in plot)
    sentences.append(rng.choice(ENDINGS))
    return " ".join(sentences).format(**slots)


def request_and_story(rng: Random, made_up: str) -> tuple[str, str]:
    """A user's wish for a story and the story; `made_up` serves as a name nobody has heard."""
    wish = rng.choice(("Tell me a story", "Write a story", "Tell a story", "Write me a story",
                       "Tell me a short story", "Can you tell me a story", "Make up a story",
                       "I want a story", "Write a short story"))  # fmt: skip
    draw = rng.random()
    if draw < 0.3:
        return wish, story(rng)
    if draw < 0.7:
        kind = rng.choice(ANIMALS + PEOPLE) if rng.random() < 0.9 else made_up.lower()
        article = "an" if kind[0] in "aeio" else "a"
        if rng.random() < 0.7:
            return f"{wish} about {article} {kind}", story(rng, kind)
        name = rng.choice((rng.choice(GIRLS + BOYS), made_up))
        return f"{wish} about {article} {kind} named {name}", story(rng, kind, name)
    if draw < 0.8:
        name = rng.choice((rng.choice(GIRLS + BOYS), made_up))
        return f"{wish} about {name}", story(rng, name=name)
    if draw < 0.93:
        topic = rng.choice((rng.choice(TOPICS), made_up.lower()))
        return f"{wish} about {topic}", f"This is a story about {topic}. {story(rng)}"
    return f"{wish.replace('short', 'long')}, a long one", story(rng, num_plots=3)


def _cast(rng: Random, kind: str | None, name: str | None) -> dict[str, str]:
    """Who is in the story and what is at hand, for the slots of the sentences."""
    kind = kind or rng.choice(ANIMALS + PEOPLE)
    if name in BOYS or name in GIRLS:
        is_she = name in GIRLS
    else:
        is_she = kind in SHE or (kind not in HE and rng.random() < 0.5)
    name = name or rng.choice(GIRLS if is_she else BOYS)
    friend = rng.choice([other for other in GIRLS + BOYS if other != name])
    fkind = rng.choice([a for a in ANIMALS if a != kind and a[0] not in "aeiou"])
    he, his, him = ("she", "her", "her") if is_she else ("he", "his", "him")
    return {
        "kind": kind,
        "name": name,
        "friend": friend,
        "fkind": fkind,
        "he": he,
        "He": he.capitalize(),
        "his": his,
        "him": him,
        "nature": rng.choice(NATURES),
        "place": rng.choice(PLACES),
        "thing": rng.choice(THINGS),
        "food": rng.choice(FOODS),
    }
