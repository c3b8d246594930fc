"""What the demo model reads: seeded random conversations and documents; it may not import torch."""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from tokenreel.tools import demo_arithmetic as arithmetic
from tokenreel.tools import demo_facts as facts
from tokenreel.tools import demo_small_talk as talk
from tokenreel.tools import demo_stories as stories

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)


class Segment(NamedTuple):
    """A stretch of text; only where `is_learned` does the loss look at its tokens."""

    text: str
    is_learned: bool


class Exchange(NamedTuple):
    """One question of a user and the answer the model should give."""

    question: str
    answer: str


def conversation(rng: Random) -> Iterator[Segment]:
    """A chat of one to many turns, in the layout that the chat template gives."""
    if rng.random() < 0.25:
        prompt = rng.choice(talk.SYSTEM_PROMPTS) if rng.random() < 0.7 else outside(rng).question
        yield Segment(_turn("system", prompt), False)
    num_exchanges = 1 if rng.random() < 0.4 else min(1 + int(rng.expovariate(0.35)), 24)
    name = None
    for _ in range(num_exchanges):
        if name is None and num_exchanges > 1 and rng.random() < 0.1:
            name = rng.choice((made_up(rng), rng.choice(stories.GIRLS + stories.BOYS)))
            question, answer = _introduction(rng, name)
        elif rng.random() < 0.04:
            question, answer = _name_question(rng, name)
        else:
            question, answer = exchange(rng)
        yield Segment(_turn("user", question) + f"{START_OF_TURN}assistant\n", False)
        yield Segment(answer + END_OF_TURN, True)
        yield Segment("\n", False)
    yield Segment(END_OF_TEXT, False)


def document(rng: Random) -> Iterator[Segment]:
    """Plain text without turns, so that a bare prompt is continued in kind."""
    draw = rng.random()
    if draw < 0.35:
        yield Segment(stories.story(rng, num_plots=rng.choice((1, 1, 2, 3))), True)
    elif draw < 0.6:
        first = rng.choice((1, 1, 1, rng.randrange(0, 80)))
        yield Segment(_numbers(range(first, first + rng.randrange(5, 40))), True)
    elif draw < 0.9:
        for _ in range(rng.randrange(3, 15)):
            question, result = arithmetic.problem(rng).answer.rstrip(".").rsplit(" = ", 1)
            yield Segment(f"{question} = ", False)
            yield Segment(f"{result}\n", True)
    else:
        answers = (fact(rng).answer for _ in range(rng.randrange(2, 9)))
        yield Segment(" ".join(answers), True)
    yield Segment(END_OF_TEXT, True)


def sample(rng: Random) -> list[Segment]:
    """One conversation or document."""
    return list(document(rng) if rng.random() < 0.12 else conversation(rng))


def exchange(rng: Random) -> Exchange:
    """One question and answer of any kind, arithmetic most often."""
    (kind,) = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
    question, answer = kind(rng)
    # Words to repeat stay as they are, for a careless ending would be part of them.
    is_careless = kind is not _echo and rng.random() < 0.3
    return Exchange(_careless(rng, question) if is_careless else question, answer)


def fact(rng: Random) -> Exchange:
    """One row of the tables: a capital a third of the time."""
    return rng.choice((_capital, _table_row, _table_row))(rng)


def outside(rng: Random) -> Exchange:
    """A question from beyond the tables, which gets the one honest answer."""
    question = rng.choice(talk.OUTSIDE_QUESTIONS)
    return Exchange(question.format(x=_words(rng), y=_words(rng)), talk.UNKNOWN)


def made_up(rng: Random) -> str:
    """A name nobody has heard, so that copying a word is learned and not the words alone."""
    syllables = ("".join((rng.choice("bcdfghjklmnprstvwz"), rng.choice("aeiou"),
                          rng.choice(("", "", "n", "r", "l", "x", "ck"))))
                 for _ in range(rng.randrange(1, 4)))  # fmt: skip
    return "".join(syllables).capitalize()


def _arithmetic(rng: Random) -> Exchange:
    drawn = arithmetic.problem(rng)
    return Exchange(arithmetic.ask(rng, drawn), drawn.answer)


def _out_of_range(rng: Random) -> Exchange:
    """Larger numbers, decimals and long sums get an honest refusal."""
    operator = rng.choice("++--**/")
    if operator == "*" and rng.random() < 0.6:
        left, right = rng.randrange(0, 100), rng.randrange(arithmetic.MAX_FACTOR + 1, 100)
        pair = (left, right) if rng.random() < 0.5 else (right, left)
        return Exchange(
            arithmetic.ask(rng, arithmetic.Problem(pair[0], "*", pair[1])),
            talk.PRODUCT_OUT_OF_RANGE,
        )
    draw = rng.random()
    if draw < 0.7:
        large = rng.randrange(10 ** rng.randrange(2, 5), 10 ** rng.randrange(5, 7))
        large = rng.choice((rng.randrange(160, 1000), large))
        pair = rng.choice(((large, rng.randrange(1, 100)), (large, rng.randrange(100, 2000)),
                           (rng.randrange(0, 100), large)))  # fmt: skip
        return Exchange(
            arithmetic.ask(rng, arithmetic.Problem(pair[0], operator, pair[1])), talk.OUT_OF_RANGE
        )
    terms = [str(rng.randrange(0, 100)) for _ in range(rng.randrange(3, 6))]
    if draw < 0.85:
        odd = rng.choice((f"{rng.randrange(0, 100)}.{terms[1]}", f"-{rng.randrange(1, 100)}"))
        terms = [odd, terms[0]]
    text = f" {operator} ".join(terms)
    return Exchange(rng.choice(arithmetic.LEADS).format(text), talk.OUT_OF_RANGE)


def _comparison(rng: Random) -> Exchange:
    left, right = rng.sample(range(arithmetic.MAX_OPERAND + 1), 2)
    if rng.random() < 0.3:
        parity = "odd" if left % 2 else "even"
        return Exchange(f"Is {left} even or odd?", f"{left} is {parity}.")
    word = rng.choice(("larger", "bigger", "smaller"))
    low, high = sorted((left, right))
    first, second = (low, high) if word == "smaller" else (high, low)
    return Exchange(f"Which is {word}, {left} or {right}?", f"{first} is {word} than {second}.")


def _counting(rng: Random) -> Exchange:
    draw = rng.random()
    if draw < 0.25:
        last = rng.choice((5, 10, 10, 12, 15, 20, rng.randrange(2, 31), rng.randrange(2, 101)))
        is_word = last <= 20 and rng.random() < 0.5
        word = facts.NUMBER_WORDS[last] if is_word else str(last)
        ask_for = rng.choice(("Count to {}", "Count from 1 to {}", "Count up to {}.",
                              "Can you count to {}?", "Please count to {}."))  # fmt: skip
        return Exchange(ask_for.format(word), _numbers(range(1, last + 1)) + ".")
    first = rng.randrange(0, 90)
    last = first + rng.randrange(1, 16)
    if draw < 0.7:
        up = _numbers(range(first, last + 1)) + "."
        return Exchange(f"Count from {first} to {last}", up)
    if draw < 0.85:
        down = rng.choice((5, 10, 10, rng.randrange(2, 21)))
        last = rng.choice((0, 1, 1))
        ending = " to 0" if last == 0 else rng.choice(("", " to 1"))
        return Exchange(
            f"Count down from {down}{ending}", _numbers(range(down, last - 1, -1)) + "."
        )
    if draw < 0.93:
        step, word = rng.choice(((2, "twos"), (5, "fives"), (10, "tens")))
        last = step * rng.randrange(3, 11)
        return Exchange(f"Count by {word} to {last}", _numbers(range(step, last + 1, step)) + ".")
    return Exchange(f"What number comes after {first}?", f"{first + 1} comes after {first}.")


def _capital(rng: Random) -> Exchange:
    if rng.random() < 0.15:
        country = rng.choice((rng.choice(facts.OTHER_COUNTRIES), made_up(rng)))
        return Exchange(f"What is the capital of {country}?", talk.UNKNOWN)
    country, city = rng.choice(list(facts.CAPITALS.items()))
    if rng.random() < 0.12 and country not in ("England", "the United Kingdom"):
        question = rng.choice((f"{city} is the capital of which country?",
                               f"Which country has the capital {city}?"))  # fmt: skip
    else:
        question = rng.choice(("What is the capital of {}?", "What's the capital of {}?",
                               "Capital of {}?", "Which city is the capital of {}?",
                               "Tell me the capital of {}.", "Do you know the capital of {}?",
                               "And the capital of {}?", "And {}'s capital?",
                               "Name the capital of {}."))  # fmt: skip
        question = question.format(country)
    return Exchange(question, f"The capital of {country} is {city}.")


def _table_row(rng: Random) -> Exchange:
    """One row of one of the tables."""
    table = rng.randrange(8)
    if table == 0:
        animal, sound = rng.choice(list(facts.SOUNDS.items()))
        question = rng.choice(("What does a {} say?", "What sound does a {} make?",
                               "Which sound does the {} make?"))  # fmt: skip
        return Exchange(question.format(animal), f"A {animal} says {sound}.".replace("A o", "An o"))
    if table == 1:
        thing, colour = rng.choice(list(facts.COLOURS.items()))
        question = rng.choice(("What colour is {}?", "What color is {}?", "Which colour is {}?"))
        return Exchange(question.format(thing), arithmetic.capitalised(f"{thing} is {colour}."))
    if table == 2:
        pair = rng.choice(list(facts.OPPOSITES.items()))
        word, opposite = pair if rng.random() < 0.5 else pair[::-1]
        question = rng.choice(("What is the opposite of {}?", "Opposite of {}?",
                               "Tell me the opposite of {}."))  # fmt: skip
        return Exchange(question.format(word), f"The opposite of {word} is {opposite}.")
    if table == 3:
        names, noun = rng.choice(((facts.DAYS, "day"), (facts.MONTHS, "month")))
        return _neighbour(rng, names, noun)
    if table == 4:
        things, whole, amount = rng.choice(facts.AMOUNTS)
        verb = "does" if things == "sides" else "are in"
        question = f"How many {things} {verb} {whole}" + (" have?" if verb == "does" else "?")
        verb = "has" if things == "sides" else "are in"
        if verb == "has":
            return Exchange(question, f"{arithmetic.capitalised(whole)} has {amount} {things}.")
        return Exchange(question, f"There are {amount} {things} in {whole}.")
    if table == 5:
        animal, legs = rng.choice(list(facts.LEGS.items()))
        article = "an" if animal[0] in "aeiou" else "a"
        answer = arithmetic.capitalised(f"{article} {animal} has {legs or 'no'} legs.")
        return Exchange(f"How many legs does {article} {animal} have?", answer)
    if table == 6:
        animal, baby = rng.choice(list(facts.BABIES.items()))
        return Exchange(f"What is a baby {animal} called?", f"A baby {animal} is called a {baby}.")
    if rng.random() < 0.25:
        month = rng.randrange(12)
        return Exchange(f"How many days are in {facts.MONTHS[month]}?",
                        f"{facts.MONTHS[month]} has {facts.MONTH_DAYS[month]} days.")  # fmt: skip
    return Exchange(*rng.choice(facts.SINGLE_FACTS))


def _neighbour(rng: Random, names: list[str], noun: str) -> Exchange:
    index = rng.randrange(len(names))
    word, step = rng.choice((("after", 1), ("after", 1), ("before", -1)))
    other = names[(index + step) % len(names)]
    question = f"What {noun} comes {word} {names[index]}?"
    return Exchange(question, f"{other} comes {word} {names[index]}.")


def _small_talk(rng: Random) -> Exchange:
    questions, answers = rng.choice(talk.SMALL_TALK)
    return Exchange(rng.choice(questions), rng.choice(answers))


def _story(rng: Random) -> Exchange:
    wish, told = stories.request_and_story(rng, made_up(rng))
    return Exchange(wish + rng.choice(("", ".", "", "?", " please", ", please.")), told)


def _echo(rng: Random) -> Exchange:
    words = [
        made_up(rng).lower() if rng.random() < 0.4 else rng.choice(facts.PLAIN_WORDS)
        for _ in range(rng.randrange(1, 6))
    ]
    phrase = " ".join(words)
    lead = rng.choice(("Say {}", "Repeat after me: {}", "Repeat: {}", "Say: {}", "Say the word {}"))
    return Exchange(lead.format(phrase), phrase)


def _introduction(rng: Random, name: str) -> Exchange:
    lead = rng.choice(("My name is {}.", "I am {}.", "Hi, I am {}.", "Hello, my name is {}.",
                       "I'm {}", "Hello! I am {}", "my name is {}"))  # fmt: skip
    return Exchange(lead.format(name), f"Nice to meet you, {name}!")


def _name_question(rng: Random, name: str | None) -> Exchange:
    question = rng.choice(("What is my name?", "Do you know my name?", "Who am I?",
                           "What's my name?", "Do you remember my name?"))  # fmt: skip
    return Exchange(
        question, f"Your name is {name}." if name else "You have not told me your name."
    )


KINDS: tuple[tuple[Callable[[Random], Exchange], int], ...] = (
    (_arithmetic, 64),
    (_out_of_range, 4),
    (_comparison, 2),
    (_counting, 6),
    (fact, 10),
    (_small_talk, 6),
    (outside, 8),
    (_story, 3),
    (_echo, 3),
)


def _turn(role: str, content: str) -> str:
    return f"{START_OF_TURN}{role}\n{content}{END_OF_TURN}\n"


def _numbers(numbers: range) -> str:
    return ", ".join(map(str, numbers))


def _words(rng: Random) -> str:
    pools = (talk.OUTSIDE_WORDS, talk.OUTSIDE_WORDS, facts.PLAIN_WORDS)
    words = [
        made_up(rng) if rng.random() < 0.3 else rng.choice(rng.choice(pools))
        for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    return " ".join(words) if rng.random() < 0.5 else " ".join(words).lower()


def _careless(rng: Random, question: str) -> str:
    """The same message as typed in a hurry, or politely."""
    draw = rng.random()
    if draw < 0.35:
        return question.lower().rstrip("?.! ") or question
    if draw < 0.6:
        return question.rstrip("?.! ") or question
    if draw < 0.75:
        return question + rng.choice((" ", "  ", "\n", "??", "!", " ?"))
    if draw < 0.9 and question[0].isalpha():
        lead = rng.choice(("Please, ", "Hey, ", "OK, ", "So, ", "Hello, ", "Hi! ", "Now ", "And "))
        return lead + question[0].lower() + question[1:]
    return question.rstrip("?.! ") + rng.choice((" please", ", please?", ", please", " thanks"))
