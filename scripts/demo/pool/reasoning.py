"""Logic, sets and probability; every puzzle is solved by trying all cases."""

import json
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise, permutations, product
from math import comb, perm
from random import Random

from demo.pool.example import Example, Generator, ask, choose_labels, join_words


NAMES = ["Ana", "Ben", "Chen", "Dina", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jonas"]
PETS = ["a cat", "a dog", "a fish", "a rabbit", "a parrot"]
GROUPS = {
    "fruit": ["apple", "banana", "cherry", "mango", "pear"],
    "animals": ["horse", "tiger", "rabbit", "whale", "eagle"],
    "colors": ["red", "blue", "green", "yellow", "purple"],
    "musical instruments": ["piano", "violin", "drum", "flute", "trumpet"],
    "vehicles": ["car", "bus", "bicycle", "train", "truck"],
    "furniture": ["table", "chair", "sofa", "wardrobe", "shelf"],
}
LOGIC = "logic|logical reasoning|logic puzzle"
CHANCE = "probability|probability theory"
FORMULAS: list[tuple[str, Callable[[bool, bool], bool]]] = [
    ("p and q", lambda p, q: p and q),
    ("p or q", lambda p, q: p or q),
    ("not p or q", lambda p, q: not p or q),
    ("p and not q", lambda p, q: p and not q),
    ("not (p and q)", lambda p, q: not (p and q)),
    ("not (p or q)", lambda p, q: not (p or q)),
    ("p xor q", lambda p, q: p != q),
    ("p if and only if q", lambda p, q: p == q),
]
CHAINS = [
    ("taller than", "tallest", "shortest"),
    ("older than", "oldest", "youngest"),
    ("faster than", "fastest", "slowest"),
    ("heavier than", "heaviest", "lightest"),
]
SYLLOGISMS = [
    ("roses", "flowers", "plants"),
    ("sparrows", "birds", "animals"),
    ("squares", "rectangles", "quadrilaterals"),
    ("novels", "books", "printed works"),
    ("violins", "string instruments", "musical instruments"),
    ("oaks", "trees", "plants"),
    ("salmon", "fish", "animals"),
]


def order_people(rng: Random) -> Example:
    """Ask for the order of a few people from shuffled comparisons."""
    people, (than, first, last) = rng.sample(NAMES, rng.choice([3, 4, 5])), rng.choice(CHAINS)
    clues = [f"{a} is {than} {b}." for a, b in pairwise(people)]
    rng.shuffle(clues)
    chain = " > ".join(people)
    answer = f"Putting the clues together gives {chain}, so {people[0]} is the {first} and {people[-1]} is the {last}."
    question = f"{' '.join(clues)} Who is the {first} and who is the {last}?"
    return ask(question, answer, choose_labels(rng, LOGIC, "ordering|ranking", "reasoning?"), steps=len(people) + 1)


def match_pets(rng: Random) -> Example:
    """Ask who has which pet, from clues that leave one solution."""
    people, pets = rng.sample(NAMES, 3), rng.sample(PETS, 3)
    truth = dict(zip(people, rng.sample(pets, 3), strict=True))
    options = [dict(zip(people, order, strict=True)) for order in permutations(pets)]
    clues = [(who, pet) for who in people for pet in pets if truth[who] != pet]
    rng.shuffle(clues)
    chosen: list[tuple[str, str]] = []
    for who, pet in clues:
        remaining = [option for option in options if option[who] != pet]
        if len(remaining) < len(options):
            options, chosen = remaining, [*chosen, (who, pet)]
    listed = " ".join(f"{who} does not have {pet}." for who, pet in chosen)
    solution = join_words([f"{who} has {pet}" for who, pet in truth.items()])
    answer = f"Of the six ways to give out the pets, the clues leave one: {solution}."
    question = f"{join_words(people)} have {join_words(sorted(pets))}, one pet each. {listed} Who has which pet?"
    return ask(question, answer, choose_labels(rng, LOGIC, "deduction|deductive reasoning", "puzzle"), steps=6)


def find_liars(rng: Random) -> Example:
    """Ask who tells the truth, from two statements that leave one solution."""
    a, b = rng.sample(NAMES, 2)
    claims: list[tuple[str, Callable[[bool, bool], bool]]] = [
        (f"{a} tells the truth", lambda x, _: x),
        (f"{a} lies", lambda x, _: not x),
        (f"{b} tells the truth", lambda _, y: y),
        (f"{b} lies", lambda _, y: not y),
        ("both of us lie", lambda x, y: not x and not y),
        ("we are of the same kind", lambda x, y: x == y),
        ("at least one of us lies", lambda x, y: not (x and y)),
    ]
    worlds: list[tuple[bool, bool]] = []
    while len(worlds) != 1:
        (first, holds_first), (second, holds_second) = rng.choice(claims[2:]), rng.choice([*claims[:2], *claims[4:]])
        pairs = list(product([True, False], repeat=2))
        worlds = [(x, y) for x, y in pairs if holds_first(x, y) == x and holds_second(x, y) == y]
    kinds = ["always tells the truth" if honest else "always lies" for honest in worlds[0]]
    answer = f"Of the four cases only one fits both statements: {a} {kinds[0]} and {b} {kinds[1]}."
    question = (
        f"{a} and {b} each either always tell the truth or always lie. {a} says: '{first}'. {b} says: '{second}'. "
        "Which of them tells the truth?"
    )
    return ask(question, answer, choose_labels(rng, LOGIC, "knights and knaves|puzzle", "truth and lies?"), steps=7)


def fill_truth_table(rng: Random) -> Example:
    """Ask for the truth table of a formula."""
    formula, holds = rng.choice(FORMULAS)
    p_name, q_name = rng.choice([("p", "q"), ("a", "b"), ("x", "y")])
    shown = re.sub(r"\bq\b", q_name, re.sub(r"\bp\b", p_name, formula))
    lines = [f"| {p!s} | {q!s} | {holds(p, q)!s} |" for p, q in product([True, False], repeat=2)]
    answer = "\n".join([f"| {p_name} | {q_name} | {shown} |", "| --- | --- | --- |", *lines])
    labels = choose_labels(rng, "boolean logic|propositional logic", "truth table", "computer science|logic?")
    return ask(f"Make the truth table of '{shown}'.", answer, labels, steps=5)


def judge_syllogism(rng: Random) -> Example:
    """Ask whether a conclusion follows."""
    small, middle, large = rng.choice(SYLLOGISMS)
    premises = f"All {small} are {middle}. All {middle} are {large}."
    if rng.random() < 0.5:
        conclusion, verdict = (
            f"all {small} are {large}",
            "Yes. Each of the {0} is one of the {1}, and therefore one of the {2}.",
        )
    else:
        conclusion, verdict = (
            f"all {large} are {small}",
            "No. The premises say nothing about those {2} that are not {1}, so some {2} may not be {0}.",
        )
    labels = choose_labels(rng, "syllogism", LOGIC, "critical thinking?")
    question = f"{premises} Does it follow that {conclusion}?"
    return ask(question, verdict.format(small, middle, large), labels, steps=3)


def find_odd_one(rng: Random) -> Example:
    """Ask which word does not belong with the others."""
    group, other = rng.sample(list(GROUPS), 2)
    words, odd = rng.sample(GROUPS[group], 3), rng.choice(GROUPS[other])
    shown = [*words, odd]
    rng.shuffle(shown)
    answer = f"'{odd}' does not belong, because the others are {group}."
    labels = choose_labels(rng, "classification|categorization", "odd one out|vocabulary", "reasoning?")
    return ask(f"Which word does not belong: {', '.join(shown)}?", answer, labels, steps=2)


def sort_into_groups(rng: Random) -> Example:
    """Ask to put words under two headings, as JSON."""
    first, second = rng.sample(list(GROUPS), 2)
    words = {name: sorted(rng.sample(GROUPS[name], 2)) for name in (first, second)}
    shown = [*words[first], *words[second]]
    rng.shuffle(shown)
    headings = f'"{first}" and "{second}"'
    question = f"Sort {', '.join(shown)} into {headings}. Reply with JSON only, words in alphabetical order."
    return ask(
        question,
        json.dumps(words),
        choose_labels(rng, "classification|categorization", "json", "structured output?"),
        steps=4,
    )


def combine_sets(rng: Random) -> Example:
    """Ask for union, intersection or difference of two sets."""
    a, b = (set(rng.sample(range(1, 13), rng.randint(3, 6))) for _ in range(2))
    name, found, meaning = rng.choice(
        [
            ("union", a | b, "in at least one of the sets"),
            ("intersection", a & b, "in both sets"),
            ("difference A minus B", a - b, "in A but not in B"),
        ]
    )
    answer = f"The {name} holds what is {meaning}: {write_set(found)}."
    question = f"Let A = {write_set(a)} and B = {write_set(b)}. What is the {name}?"
    return ask(question, answer, choose_labels(rng, "set theory|sets", "mathematics|math"), steps=2)


def write_set(numbers: set[int]) -> str:
    """Write a set in braces, in ascending order."""
    return f"{{{', '.join(map(str, sorted(numbers)))}}}"


def roll_two_dice(rng: Random) -> Example:
    """Ask for the chance of a sum of two dice."""
    total = rng.randint(2, 12)
    word, wanted = rng.choice(
        [("exactly", [total]), ("at least", list(range(total, 13))), ("at most", list(range(2, total + 1)))]
    )
    rolls = [pair for pair in product(range(1, 7), repeat=2) if sum(pair) in wanted]
    chance = Fraction(len(rolls), 36)
    answer = f"{len(rolls)} of the 36 equally likely rolls fit, so the probability is {len(rolls)}/36 = {chance}."
    question = f"Two fair dice are rolled. What is the probability that the sum is {word} {total}?"
    return ask(question, answer, choose_labels(rng, CHANCE, "dice", "mathematics|math"), steps=4)


def draw_card(rng: Random) -> Example:
    """Ask for the chance of drawing a kind of card."""
    kind, count = rng.choice(
        [
            ("a heart", 13),
            ("an ace", 4),
            ("a red card", 26),
            ("a king or a queen", 8),
            ("the ace of spades", 1),
            ("a face card (jack, queen or king)", 12),
            ("a black ten", 2),
        ]
    )
    times = rng.choice(["one card is", "two cards are"])
    first = Fraction(count, 52)
    if times == "one card is":
        answer = f"{count} of the 52 cards fit, so the probability is {count}/52 = {first}."
        question = f"One card is drawn from a standard deck of 52. What is the probability that it is {kind}?"
        return ask(
            question, answer, choose_labels(rng, CHANCE, "playing cards|card games", "mathematics|math?"), steps=2
        )
    none = Fraction(comb(52 - count, 2), comb(52, 2))
    answer = (
        f"The probability of no such card is {52 - count}/52 * {51 - count}/51 = {none}, "
        f"so the probability of at least one is 1 - {none} = {1 - none}."
    )
    question = (
        "Two cards are drawn from a standard deck of 52 without putting the first one back. "
        f"What is the probability that at least one of them is {kind}?"
    )
    return ask(question, answer, choose_labels(rng, CHANCE, "playing cards|card games", "combinatorics?"), steps=6)


def toss_coins(rng: Random) -> Example:
    """Ask for the chance of a number of heads."""
    tosses = rng.randint(2, 7)
    heads = rng.randint(0, tosses)
    ways, chance = comb(tosses, heads), Fraction(comb(tosses, heads), 2**tosses)
    answer = (
        f"There are 2^{tosses} = {2**tosses} equally likely results, and C({tosses}, {heads}) = {ways} of them fit, "
        f"so the probability is {ways}/{2**tosses} = {chance}."
    )
    question = f"A fair coin is tossed {tosses} times. What is the probability of exactly {heads} heads?"
    return ask(
        question.replace("exactly 1 heads", "exactly 1 head"),
        answer,
        choose_labels(rng, CHANCE, "coin toss?", "combinatorics"),
        steps=4,
    )


def draw_from_urn(rng: Random) -> Example:
    """Ask for the chance of two balls of one color without replacement."""
    red, blue = rng.randint(2, 9), rng.randint(2, 9)
    total = red + blue
    chance = Fraction(red * (red - 1), total * (total - 1))
    answer = (
        f"The first is red with probability {red}/{total}, then the second with {red - 1}/{total - 1}. "
        f"Together: {red}/{total} * {red - 1}/{total - 1} = {chance}."
    )
    question = (
        f"A bag holds {red} red and {blue} blue balls. Two are drawn without replacement. "
        "What is the probability that both are red?"
    )
    return ask(question, answer, choose_labels(rng, CHANCE, "conditional probability", "mathematics|math?"), steps=5)


def count_ways(rng: Random) -> Example:
    """Ask for a number of choices or orders."""
    n = rng.randint(5, 12)
    k = rng.randint(2, min(n - 2, 5))
    if rng.random() < 0.5:
        question = f"In how many ways can {k} of {n} people be chosen for a team?"
        answer = f"The order does not matter, so it is C({n}, {k}) = {comb(n, k)} ways."
    else:
        question = f"In how many ways can {k} of {n} people take places 1 to {k}?"
        answer = f"The order matters, so it is {' * '.join(str(n - taken) for taken in range(k))} = {perm(n, k)} ways."
    return ask(
        question,
        answer,
        choose_labels(rng, "combinatorics|counting", "permutations and combinations?", "mathematics|math"),
        steps=4,
    )


def expect_value(rng: Random) -> Example:
    """Ask for the expected value of a simple game."""
    prize, cost = rng.randrange(6, 61, 6), rng.randint(1, 6)
    mean = Fraction(prize, 6) - cost
    verdict = "fair" if mean == 0 else f"good for the {'player' if mean > 0 else 'house'}"
    answer = f"The expected win is 1/6 * {prize} - {cost} = {mean} dollars per game, so the game is {verdict}."
    question = (
        f"A game costs ${cost}. A fair die is rolled, and a six pays ${prize}. What is the expected win per game?"
    )
    return ask(question, answer, choose_labels(rng, "expected value", CHANCE, "game theory|games?"), steps=4)


GENERATORS: dict[Generator, float] = {
    order_people: 1.5,
    match_pets: 1.0,
    find_liars: 0.8,
    fill_truth_table: 0.6,
    judge_syllogism: 0.6,
    find_odd_one: 1.2,
    sort_into_groups: 0.8,
    combine_sets: 1.2,
    roll_two_dice: 0.8,
    draw_card: 0.6,
    toss_coins: 0.7,
    draw_from_urn: 0.7,
    count_ways: 0.8,
    expect_value: 0.6,
}
