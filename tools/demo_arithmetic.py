"""The demo model's arithmetic: problems, answers and the ways to ask; it may not import torch."""

from random import Random
from typing import NamedTuple
from zlib import crc32

from tokenreel.tools import demo_facts as facts

MAX_FACTOR = 12
MAX_OPERAND = 99
# One problem in this many is never trained on, so that accuracy is measured on unseen ones.
HELD_OUT_ONE_IN = 20


class Problem(NamedTuple):
    """Two whole numbers and one of the operators + - * /."""

    left: int
    operator: str
    right: int

    @property
    def answer(self) -> str:
        """Always in the same form, so that sampling at temperature 1 stays right."""
        left, operator, right = self
        sentence = f"{left} {operator} {right} = "
        if operator == "/":
            quotient, rest = divmod(left, right)
            return sentence + (f"{quotient} remainder {rest}." if rest else f"{quotient}.")
        result = {"+": left + right, "-": left - right, "*": left * right}[operator]
        return f"{sentence}{result}."

    @property
    def is_held_out(self) -> bool:
        """Sums and differences of larger numbers only; small tables have to be learned whole."""
        if self.operator not in "+-" or max(self.left, self.right) <= MAX_FACTOR:
            return False
        # 3 + 4 and 4 + 3 are held out together, else one would give the other away.
        low, high = sorted((self.left, self.right)) if self.operator == "+" else self[::2]
        return crc32(f"{low}{self.operator}{high}".encode()) % HELD_OUT_ONE_IN == 0


PHRASES: dict[str, tuple[str, ...]] = {
    "+": ("{a} plus {b}", "add {a} and {b}", "the sum of {a} and {b}", "add {b} to {a}"),
    "-": ("{a} minus {b}", "subtract {b} from {a}", "the difference between {a} and {b}",
          "take {b} away from {a}"),
    "*": ("{a} times {b}", "{a} multiplied by {b}", "the product of {a} and {b}", "{a} x {b}",
          "{a}x{b}", "{a} × {b}", "multiply {a} by {b}"),
    "/": ("{a} divided by {b}", "divide {a} by {b}", "{a} ÷ {b}"),
}  # fmt: skip
WORD_PROBLEMS: dict[str, tuple[str, ...]] = {
    "+": ("I have {a} {things} and get {b} more. How many {things} do I have?",
          "There are {a} {things} in one box and {b} in another. How many are there in all?"),
    "-": ("I have {a} {things} and give away {b}. How many {things} are left?",
          "There are {a} {things}. {b} of them are gone. How many are left?"),
    "*": ("There are {a} boxes with {b} {things} in each box. How many {things} are there?",),
    "/": ("I share {a} {things} between {b} children. How many does each child get?",),
}  # fmt: skip
LEADS = (
    "What is {}?", "What's {}?", "what is {}", "Calculate {}.", "Compute {}", "How much is {}?",
    "{}", "{}?", "Can you tell me {}?", "Please work out {}", "And {}?", "Now {}",
    "What about {}?", "And what is {}?", "Work out {}", "Tell me {}.", "Solve {}",
    "Do you know {}?",
)  # fmt: skip


def problem(rng: Random, operator: str | None = None, is_held_out: bool = False) -> Problem:
    """A problem that is, or is not, among the held out."""
    # Borrowing and remainders are learned last, so differences and quotients are asked more.
    operator = operator or rng.choices("+-*/", (28, 48, 9, 15))[0]
    while True:
        found = _draw(rng, operator)
        if found.is_held_out == is_held_out or (is_held_out and operator in "*/"):
            return found


def ask(rng: Random, given: Problem) -> str:
    """The problem as a user may put it."""
    left, operator, right = given
    draw = rng.random()
    if draw < 0.06:
        things = rng.choice(facts.THINGS_TO_COUNT)
        text = rng.choice(WORD_PROBLEMS[operator])
        return text.format(a=left, b=right, things=things)
    if draw < 0.45:
        return rng.choice(LEADS).format(f"{left} {operator} {right}")
    if draw < 0.55:
        return f"{left}{operator}{right}" + rng.choice(("", "", "=", "?", "=?"))
    if draw < 0.6:
        return f"{left} {operator} {right} =" + rng.choice(("", " ?"))
    phrase = rng.choice(PHRASES[operator])
    if max(left, right) <= 20 and rng.random() < 0.2:
        words = facts.NUMBER_WORDS
        phrase = phrase.format(a=words[left], b=words[right])
    else:
        phrase = phrase.format(a=left, b=right)
    if phrase.startswith(("add", "subtract", "take", "multiply", "divide")):
        lead = rng.choice(("{}", "{}.", "Please {}.", "Can you {}?", "Now {}", "Could you {}?"))
        return capitalised(lead.format(phrase))
    return capitalised(rng.choice(LEADS).format(phrase))


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _draw(rng: Random, operator: str) -> Problem:
    if operator == "*":
        return Problem(rng.randrange(MAX_FACTOR + 1), "*", rng.randrange(MAX_FACTOR + 1))
    if operator == "/":
        divisor = rng.randrange(1, MAX_FACTOR + 1)
        if rng.random() < 0.3:
            return Problem(rng.randrange(MAX_OPERAND + 1), "/", divisor)
        rest = rng.randrange(divisor) if rng.random() < 0.2 else 0
        return Problem(divisor * rng.randrange(MAX_FACTOR + 1) + rest, "/", divisor)
    # Evenly drawn, 2 + 2 would come once in ten thousand and 53 + 6 too seldom.
    limits = rng.choices(
        ((MAX_OPERAND, MAX_OPERAND), (MAX_FACTOR, MAX_FACTOR), (MAX_OPERAND, 9), (9, MAX_OPERAND)),
        (70, 12, 12, 6),
    )[0]
    return Problem(rng.randrange(limits[0] + 1), operator, rng.randrange(limits[1] + 1))
