"""Conversations of two turns, and short pieces of writing and editing."""

from datetime import date, datetime, timedelta
from random import Random

from demo.pool.example import Example, Generator, Turn, ask, choose_labels, join_words, split_words


NAMES = ["Ana", "Ben", "Chen", "Dina", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena"]
FOOD = ["milk", "eggs", "rice", "apples", "bread", "cheese", "beans", "coffee", "salt", "onions"]
HOBBIES = ["hiking", "chess", "painting", "swimming", "cooking", "photography", "gardening", "astronomy"]
TASKS = {
    "answer emails": 30,
    "write the report": 90,
    "call the client": 20,
    "review the code": 60,
    "plan the week": 45,
}
"""Tasks and their minutes."""
ACROSTIC = {
    "a": "Always ask another question",
    "b": "Bring bread and books",
    "c": "Calm clouds cross the coast",
    "d": "Dawn dances over the dunes",
    "e": "Every evening ends early",
    "f": "Fireflies float far away",
    "g": "Green gardens grow",
    "h": "Hills hold hidden homes",
    "i": "Ice is in the inlet",
    "l": "Long lanes lead home",
    "m": "Mild mornings make music",
    "n": "Nights are never noisy",
    "o": "Owls own the old oak",
    "p": "Paths pass the pond",
    "r": "Rivers run to rest",
    "s": "Soft snow settles slowly",
    "t": "Trees talk to the tide",
    "u": "Under us the universe hums",
    "v": "Valleys vanish in vapor",
    "w": "Winds wander west",
    "y": "Young years yield joy",
}
ACROSTIC_WORDS = split_words(
    "spring winter summer ocean garden island night stars rain cloud moon river dawn bird leaf home"
)
ADJECTIVES = {
    "positive": ["clean", "friendly", "comfortable", "delicious", "helpful", "wonderful"],
    "negative": ["dirty", "rude", "uncomfortable", "tasteless", "useless", "disappointing"],
}
REVIEWED = ["hotel", "restaurant", "train ride", "course", "tour", "café"]
TYPED = [
    "The weather was beautiful yesterday.",
    "Please send me the address of the library.",
    "We received your message on Wednesday.",
    "The committee will meet again tomorrow.",
    "My favorite restaurant is closed on Mondays.",
    "Their business grew quickly last year.",
]
MISSPELLINGS = {
    "beautiful": "beatiful",
    "yesterday": "yesterdy",
    "address": "adress",
    "library": "libary",
    "received": "recieved",
    "Wednesday": "Wensday",
    "committee": "comittee",
    "tomorrow": "tommorow",
    "favorite": "favourit",
    "restaurant": "restaurent",
    "business": "buisness",
    "quickly": "quikly",
}
TALK = "multi-turn conversation|conversation|dialogue"


def add_then_go_on(rng: Random) -> Example:
    """Ask for a sum and then do something with it."""
    a, b, factor = rng.randint(10, 99), rng.randint(10, 99), rng.randint(2, 5)
    total = a + b
    follow, steps = rng.choice(
        [
            (f"Now multiply that by {factor}.", f"{total} * {factor} = {total * factor}"),
            (f"Subtract {factor} from that.", f"{total} - {factor} = {total - factor}"),
            ("What is the square of that?", f"{total} * {total} = {total * total}"),
        ]
    )
    turns = (
        Turn(f"What is {a} + {b}?", f"{a} + {b} = {total}"),
        Turn(follow, f"{steps}, because the last result was {total}.", 2),
    )
    return Example(turns=turns, labels=choose_labels(rng, "arithmetic", TALK, "mathematics|math?"))


def sort_then_count(rng: Random) -> Example:
    """Ask to sort numbers and then about the sorted list."""
    numbers = rng.sample(range(1, 100), rng.randint(5, 7))
    ordered, limit = sorted(numbers), rng.randint(20, 80)
    larger = [str(number) for number in ordered if number > limit]
    reply = f"{len(larger)} of them: {', '.join(larger)}." if larger else "None of them."
    turns = (
        Turn(f"Sort {', '.join(map(str, numbers))} from small to large.", ", ".join(map(str, ordered)), 2),
        Turn(f"How many of these are larger than {limit}?", reply, 2),
    )
    return Example(turns=turns, labels=choose_labels(rng, "sorting", "counting?", TALK))


def remember_person(rng: Random) -> Example:
    """Tell something about oneself and ask for it later."""
    name, hobby, food = rng.choice(NAMES), rng.choice(HOBBIES), rng.choice(FOOD)
    question, reply = rng.choice(
        [
            ("What is my name?", f"Your name is {name}."),
            ("What do I like to do?", f"You said that you like {hobby}."),
            ("What did I want to buy?", f"You wanted to buy {food}."),
        ]
    )
    first = Turn(
        f"Hi, I am {name}. I like {hobby}, and later I have to buy {food}.",
        f"Nice to meet you, {name}! Enjoy {hobby}, and do not forget to buy {food}.",
    )
    labels = choose_labels(rng, TALK, "small talk|chitchat", "memory|context tracking?")
    return Example(turns=(first, Turn(question, reply, 2)), labels=labels)


def keep_shopping_list(rng: Random) -> Example:
    """Ask for a shopping list and then change it."""
    *items, extra = rng.sample(FOOD, 5)
    removed = rng.choice(items)
    changed = [item for item in items if item != removed] + [extra]
    turns = (
        Turn(f"Make a shopping list of {join_words(items)}.", "\n".join(f"- {item}" for item in items), 2),
        Turn(f"Remove {removed} and add {extra} at the end.", "\n".join(f"- {item}" for item in changed), 3),
    )
    return Example(turns=turns, labels=choose_labels(rng, "list creation|list editing", "shopping", TALK))


def tutor_equation(rng: Random) -> Example:
    """Lead a student through an equation, one step at a time."""
    a, x, b = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 20)
    c = a * x + b
    turns = (
        Turn(
            f"How do I start with {a}x + {b} = {c}?",
            f"First get the x term alone: subtract {b} from both sides. What is {c} - {b}?",
            3,
        ),
        Turn(
            f"It is {c - b}.", f"Right, so {a}x = {c - b}. Now divide both sides by {a}: x = {c - b} / {a} = {x}.", 3
        ),
    )
    labels = choose_labels(rng, "tutoring|teaching", "algebra|linear equations", "hint?", TALK)
    return Example(turns=turns, labels=labels, system="You are a math tutor. Give one step at a time.")


def guess_number(rng: Random) -> Example:
    """Play the guessing game of higher and lower."""
    secret = rng.randint(1, 100)
    turns = []
    for guess in rng.sample(range(1, 101), 2):
        reply = "Correct!" if guess == secret else f"{'Higher' if guess < secret else 'Lower'}."
        turns.append(Turn(f"Is it {guess}?", reply, 2))
    system = (
        f"You play a guessing game. Your secret number is {secret}. Answer only 'Higher.', 'Lower.' or 'Correct!'."
    )
    return Example(
        turns=tuple(turns), labels=choose_labels(rng, "game|games", "role-playing|roleplay", TALK), system=system
    )


def plan_day(rng: Random) -> Example:
    """Ask for a timetable and then move it."""
    tasks, delay = rng.sample(list(TASKS), 3), rng.choice([15, 30, 45, 60])
    start = datetime(2024, 1, 1, rng.randint(8, 13), rng.choice([0, 30]))
    listed = join_words([f"{task} ({TASKS[task]} minutes)" for task in tasks])
    turns = (
        Turn(f"Plan these tasks one after the other from {start:%H:%M}: {listed}.", timetable(tasks, start), 5),
        Turn(f"I will start {delay} minutes later.", timetable(tasks, start + timedelta(minutes=delay)), 4),
    )
    return Example(turns=turns, labels=choose_labels(rng, "scheduling|planning", "time management", TALK))


def timetable(tasks: list[str], start: datetime) -> str:
    """Write tasks one after the other with their start and end."""
    lines = []
    for task in tasks:
        end = start + timedelta(minutes=TASKS[task])
        lines.append(f"- {start:%H:%M} to {end:%H:%M}: {task}")
        start = end
    return "\n".join(lines)


def ask_date_then_weekday(rng: Random) -> Example:
    """Ask for a date and then for its weekday."""
    start, weeks = date(rng.randint(2020, 2029), 1, 1) + timedelta(days=rng.randint(0, 364)), rng.randint(2, 9)
    end = start + timedelta(weeks=weeks)
    turns = (
        Turn(
            f"Which date is {weeks} weeks after {start.day} {start:%B %Y}?",
            f"It is {end.day} {end:%B %Y}, {7 * weeks} days later.",
            3,
        ),
        Turn("And which day of the week is that?", f"It is a {end:%A}, like the day you started from.", 2),
    )
    return Example(turns=turns, labels=choose_labels(rng, "date calculation|date arithmetic", "calendar", TALK))


def write_email(rng: Random) -> Example:
    """Ask for a polite email and then for its subject line."""
    sender, receiver = rng.sample(NAMES, 2)
    weekday = rng.choice(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"])
    wish, subject = rng.choice(
        [
            (f"take {weekday} off", f"Day off on {weekday}"),
            (f"move our meeting to {weekday}", f"Moving our meeting to {weekday}"),
            (f"work from home on {weekday}", f"Working from home on {weekday}"),
            (f"hand in the report on {weekday}", f"Report on {weekday}"),
        ]
    )
    email = f"Dear {receiver},\n\nI would like to {wish}. Does that suit you?\n\nKind regards,\n{sender}"
    turns = (
        Turn(f"Write a short, polite email from {sender} to {receiver}: {sender} would like to {wish}.", email, 4),
        Turn("What would be a good subject line?", subject),
    )
    return Example(
        turns=turns,
        labels=choose_labels(rng, "email writing|business writing", "professional communication", "writing?"),
    )


def write_acrostic(rng: Random) -> Example:
    """Ask for a poem whose lines start with the letters of a word."""
    word = rng.choice(ACROSTIC_WORDS)
    letters = list(dict.fromkeys(word))
    if len(letters) < len(word):
        return write_acrostic(rng)
    answer = "\n".join(f"{ACROSTIC[letter]}," for letter in letters).removesuffix(",") + "."
    question = rng.choice(
        [f"Write an acrostic poem for the word '{word}'.", f"Write lines that start with the letters of '{word}'."]
    )
    return ask(question, answer, choose_labels(rng, "poetry|poem", "creative writing|writing", "acrostic?"), steps=4)


def judge_review(rng: Random) -> Example:
    """Ask whether a review is positive or negative, answered with the bare word."""
    kind = rng.choice(list(ADJECTIVES))
    first, second = rng.sample(ADJECTIVES[kind], 2)
    review = (
        f"The {rng.choice(REVIEWED)} was {rng.choice(['', 'really ', 'very '])}{first}, and others call it {second}."
    )
    labels = choose_labels(rng, "sentiment analysis|sentiment classification", "text classification", "reviews?")
    return ask(f"Is this review positive or negative? {review}", kind, labels)


def correct_spelling(rng: Random) -> Example:
    """Ask to correct the spelling of a sentence."""
    sentence = rng.choice(TYPED)
    faults = [right for right in MISSPELLINGS if right in sentence]
    faults = rng.sample(faults, rng.randint(1, len(faults)))
    wrong = sentence
    for right in faults:
        wrong = wrong.replace(right, MISSPELLINGS[right])
    changes = join_words([f"'{MISSPELLINGS[right]}' is spelled '{right}'" for right in sorted(faults)])
    question = rng.choice(["Correct the spelling: {}", "Fix the typos in this sentence: {}", "Proofread this: {}"])
    labels = choose_labels(
        rng, "proofreading|spelling correction", "grammar|spelling", "english language|english?", "editing?"
    )
    return ask(question.format(wrong), f"{sentence}\nThe change: {changes}.", labels, steps=2 + len(faults))


def correct_claim(rng: Random) -> Example:
    """Correct a wrong product, or confirm a right one."""
    a, b = rng.randint(11, 30), rng.randint(3, 9)
    claimed = a * b + rng.choice([0, 2, -2, 10])
    if claimed == a * b:
        answer = f"Yes, that is right: {a} * {b} = {a * b}."
    else:
        ones, tens = a % 10, a - a % 10
        answer = f"No, {a} * {b} = {a * b}, because {tens} * {b} = {tens * b} and {ones} * {b} = {ones * b}."
    labels = choose_labels(rng, "fact checking|error correction", "multiplication", "mathematics|math?")
    return ask(f"I think {a} times {b} is {claimed}. Am I right?", answer, labels, steps=3)


def follow_format(rng: Random) -> Example:
    """Ask, under a system message, for an answer of a given form."""
    a, b = rng.randint(2, 40), rng.randint(2, 40)
    system, answer = rng.choice(
        [
            ("Answer with one number and nothing else.", str(a + b)),
            ("Answer in one full sentence.", f"The sum of {a} and {b} is {a + b}."),
            ('Answer as JSON with the key "result".', f'{{"result": {a + b}}}'),
            (
                "Answer and then name the larger of the two numbers.",
                f"The sum is {a + b}. The larger number is {max(a, b)}.",
            ),
        ]
    )
    if a == b:
        return follow_format(rng)
    labels = choose_labels(rng, "instruction following|output format", "arithmetic", "system prompt?")
    return ask(f"Add {a} and {b}.", answer, labels, steps=2, system=system)


def greet(rng: Random) -> Example:
    """Greet, and be greeted back; short and easy."""
    name, hour = rng.choice(NAMES), rng.randint(6, 22)
    part = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
    question = f"It is {hour}:00. Greet {name} in a way that fits the time of day."
    return ask(question, f"Good {part}, {name}!", choose_labels(rng, "greetings|greeting", "small talk|chitchat?"))


GENERATORS: dict[Generator, float] = {
    add_then_go_on: 2.0,
    sort_then_count: 1.2,
    remember_person: 1.5,
    keep_shopping_list: 1.0,
    tutor_equation: 1.0,
    guess_number: 1.0,
    plan_day: 1.0,
    ask_date_then_weekday: 0.8,
    write_email: 1.0,
    write_acrostic: 0.5,
    judge_review: 1.5,
    correct_spelling: 0.8,
    correct_claim: 1.0,
    follow_format: 1.5,
    greet: 1.5,
}
