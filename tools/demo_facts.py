"""The demo model's table of facts: word lists and fixed answers; it may not import anything."""

CAPITALS: dict[str, str] = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "England": "London",
    "Scotland": "Edinburgh",
    "the United Kingdom": "London",
    "the Netherlands": "Amsterdam",
    "Belgium": "Brussels",
    "Austria": "Vienna",
    "Switzerland": "Bern",
    "Denmark": "Copenhagen",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Iceland": "Reykjavík",
    "Poland": "Warsaw",
    "Hungary": "Budapest",
    "Greece": "Athens",
    "Turkey": "Ankara",
    "Ukraine": "Kyiv",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Morocco": "Rabat",
    "India": "New Delhi",
    "China": "Beijing",
    "Japan": "Tokyo",
    "South Korea": "Seoul",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
    "Canada": "Ottawa",
    "Mexico": "Mexico City",
    "Cuba": "Havana",
    "Brazil": "Brasília",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Colombia": "Bogotá",
    "the United States": "Washington",
}
# Asked for, but not in the table: the model learns to say so instead of inventing a city.
OTHER_COUNTRIES = (
    "Chad Fiji Nepal Laos Mali Togo Benin Ghana Niger Oman Qatar Yemen Jordan Kuwait Malta Cyprus "
    "Latvia Estonia Croatia Serbia Albania Bolivia Paraguay Uruguay Ecuador Guyana Haiti Jamaica "
    "Panama Honduras Angola Zambia Malawi Rwanda Uganda Somalia Sudan Libya Mongolia Bhutan Samoa "
    "Narnia Atlantis Gondor Mars Texas California Bavaria"
).split()

SOUNDS: dict[str, str] = {
    "cow": "moo",
    "dog": "woof",
    "cat": "meow",
    "sheep": "baa",
    "pig": "oink",
    "duck": "quack",
    "horse": "neigh",
    "rooster": "cock-a-doodle-doo",
    "owl": "hoot",
    "lion": "roar",
    "bee": "buzz",
    "snake": "hiss",
    "frog": "ribbit",
    "mouse": "squeak",
    "bird": "tweet",
    "crow": "caw",
    "donkey": "hee-haw",
    "wolf": "awoo",
}
LEGS: dict[str, int] = {
    "dog": 4,
    "cat": 4,
    "horse": 4,
    "cow": 4,
    "spider": 8,
    "bee": 6,
    "ant": 6,
    "bird": 2,
    "duck": 2,
    "snake": 0,
    "fish": 0,
    "human": 2,
    "frog": 4,
    "beetle": 6,
    "table": 4,
}
BABIES: dict[str, str] = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "sheep": "lamb",
    "horse": "foal",
    "duck": "duckling",
    "bear": "cub",
    "goat": "kid",
    "frog": "tadpole",
    "kangaroo": "joey",
}
COLOURS: dict[str, str] = {
    "grass": "green",
    "the sky": "blue",
    "snow": "white",
    "the sun": "yellow",
    "blood": "red",
    "coal": "black",
    "a banana": "yellow",
    "a tomato": "red",
    "a carrot": "orange",
    "milk": "white",
    "chocolate": "brown",
    "a leaf": "green",
    "a lemon": "yellow",
    "the sea": "blue",
    "a strawberry": "red",
    "an elephant": "grey",
    "a flamingo": "pink",
    "a frog": "green",
}
OPPOSITES: dict[str, str] = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "left": "right",
    "day": "night",
    "happy": "sad",
    "fast": "slow",
    "open": "closed",
    "old": "young",
    "wet": "dry",
    "light": "dark",
    "full": "empty",
    "hard": "soft",
    "high": "low",
    "long": "short",
    "early": "late",
    "good": "bad",
    "loud": "quiet",
    "rich": "poor",
    "true": "false",
    "win": "lose",
    "yes": "no",
    "first": "last",
    "clean": "dirty",
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SEASONS = "spring summer autumn winter".split()
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
AMOUNTS: tuple[tuple[str, str, str], ...] = (
    ("days", "a week", "7"),
    ("months", "a year", "12"),
    ("hours", "a day", "24"),
    ("minutes", "an hour", "60"),
    ("seconds", "a minute", "60"),
    ("days", "a year", "365"),
    ("weeks", "a year", "52"),
    ("seasons", "a year", "4"),
    ("letters", "the alphabet", "26"),
    ("planets", "the solar system", "8"),
    ("eggs", "a dozen", "12"),
    ("sides", "a triangle", "3"),
    ("sides", "a square", "4"),
    ("sides", "a hexagon", "6"),
    ("fingers", "one hand", "5"),
    ("colours", "the rainbow", "7"),
    ("years", "a century", "100"),
    ("years", "a decade", "10"),
)
# Question and answer pairs that fit no pattern.
SINGLE_FACTS: tuple[tuple[str, str], ...] = (
    ("What are the days of the week?", ", ".join(DAYS) + "."),
    ("Name the days of the week.", ", ".join(DAYS) + "."),
    ("What are the months of the year?", ", ".join(MONTHS) + "."),
    ("List the months.", ", ".join(MONTHS) + "."),
    ("What are the four seasons?", "Spring, summer, autumn, winter."),
    ("Name the planets.", ", ".join(PLANETS) + "."),
    ("List the planets of the solar system.", ", ".join(PLANETS) + "."),
    ("What are the colours of the rainbow?", "Red, orange, yellow, green, blue, indigo, violet."),
    ("Say the alphabet.", "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"),
    ("What is the largest planet?", "The largest planet is Jupiter."),
    ("What is the largest animal?", "The largest animal is the blue whale."),
    ("What is the tallest animal?", "The tallest animal is the giraffe."),
    ("What is the fastest land animal?", "The fastest land animal is the cheetah."),
    ("What is the highest mountain?", "The highest mountain is Mount Everest."),
    ("What is the largest ocean?", "The largest ocean is the Pacific Ocean."),
    ("What do bees make?", "Bees make honey."),
    ("What do cows give us?", "Cows give us milk."),
    ("What is ice made of?", "Ice is made of frozen water."),
    ("At what temperature does water boil?", "Water boils at 100 degrees Celsius."),
    ("At what temperature does water freeze?", "Water freezes at 0 degrees Celsius."),
    ("What do plants need to grow?", "Plants need water, light and air to grow."),
    ("Which planet do we live on?", "We live on Earth."),
    ("What goes around the Earth?", "The Moon goes around the Earth."),
    ("What is the closest star to the Earth?", "The closest star to the Earth is the Sun."),
)

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
THINGS_TO_COUNT = "apples books coins eggs cards pens cookies stones marbles balloons".split()
PLAIN_WORDS = (
    "hello banana river window yellow rabbit garden music table orange winter castle forest bread "
    "cheese silver mountain house happy green cloud pencil dragon kitchen summer school flower "
    "train"
).split()
