"""Programs and data formats; every result is what the shown code really returns."""

import csv
import io
import json
import re
import sqlite3
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from demo.pool.example import Example, Generator, ask, choose_labels, read_facts


PYTHON = "python|python programming"
PEOPLE = ["Ana", "Ben", "Chen", "Dina", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena"]
CITIES = ["Lisbon", "Oslo", "Lima", "Cairo", "Kyoto", "Quito", "Accra", "Turin"]
WORDS = ["apple", "river", "stone", "cloud", "tiger", "lemon", "piano", "robot", "level", "noon", "banana", "pepper"]


def numbers(rng: Random) -> list[int]:
    """Draw a short list of integers."""
    return [rng.randint(-9, 30) for _ in range(rng.randint(3, 6))]


def small(rng: Random) -> int:
    """Draw a small integer."""
    return rng.randint(2, 9)


def word(rng: Random) -> str:
    """Draw a word."""
    return rng.choice(WORDS)


def phrase(rng: Random) -> str:
    """Draw three words, with repeats."""
    return " ".join(rng.choices(WORDS, k=3))


Draw = Callable[[Random], Any]
FUNCTIONS: list[tuple[str, str, str, tuple[Draw, ...]]] = [
    ("returns the largest number of a list without using max()", "largest", "loops", (numbers,)),
    ("returns the sum of the even numbers of a list", "sum_even", "list comprehension", (numbers,)),
    ("returns the factorial of a whole number", "factorial", "recursion", (small,)),
    ("reports whether a string is a palindrome", "is_palindrome", "string manipulation", (word,)),
    ("counts how often each word occurs in a text", "count_words", "dictionary", (phrase,)),
    ("returns the n-th Fibonacci number, where number 0 is 0 and number 1 is 1", "fibonacci", "algorithm", (small,)),
    ("returns a list without repeats, order kept", "unique", "deduplication", (numbers,)),
    ("counts the vowels a, e, i, o and u of a word", "count_vowels", "string manipulation", (word,)),
    ("raises a number to a whole power by repeated squaring", "power", "algorithm", (small, small)),
    ("returns the greatest common divisor of two numbers", "gcd", "euclidean algorithm", (small, small)),
    ("splits a list into chunks of a given size", "chunks", "list processing", (numbers, small)),
    ("returns the running totals of a list", "running_totals", "loops", (numbers,)),
    ("rotates a list to the left by k places", "rotate", "list processing", (numbers, small)),
    ("returns the numbers of a list that are above its mean", "above_mean", "statistics", (numbers,)),
    ("reverses the order of the words in a text", "reverse_words", "string manipulation", (phrase,)),
]
"""For each function: what it does, its name, the label of its technique, and the generators of its arguments."""
SOURCES = """
def largest(numbers):
    best = numbers[0]
    for number in numbers[1:]:
        if number > best:
            best = number
    return best

def sum_even(numbers):
    return sum(number for number in numbers if number % 2 == 0)

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

def is_palindrome(text):
    return text == text[::-1]

def count_words(text):
    counts = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts

def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a

def unique(items):
    return list(dict.fromkeys(items))

def count_vowels(word):
    return sum(letter in "aeiou" for letter in word)

def power(base, exponent):
    if exponent == 0:
        return 1
    half = power(base * base, exponent // 2)
    return half * base if exponent % 2 else half

def gcd(a, b):
    while b:
        a, b = b, a % b
    return a

def chunks(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]

def running_totals(numbers):
    totals, total = [], 0
    for number in numbers:
        total += number
        totals.append(total)
    return totals

def rotate(items, k):
    k %= len(items)
    return items[k:] + items[:k]

def above_mean(numbers):
    mean = sum(numbers) / len(numbers)
    return [number for number in numbers if number > mean]

def reverse_words(text):
    return " ".join(reversed(text.split()))
"""
SNIPPETS = [
    "print([n * n for n in range({a}, {b})])",
    "print(sum(range({a}, {b})))",
    "print({b} // {a}, {b} % {a})",
    "print('ab' * {a})",
    "print(list(range({a}, {b} + {a}, {a})))",
    "print([n for n in range({b} + 5) if n % {a} == 0])",
    "print({{n: n ** 2 for n in range({a}, {a} + 3)}})",
    "print('python'[{a} - 1:], 'python'[::-{a}])",
    "print(max({a}, {b}), min({a}, {b}), abs({a} - {b}))",
    "print(sorted([{b}, {a}, {a} + {b}, {b} - {a}], reverse=True))",
    "x = {a}\nfor n in range(3):\n    x = x * 2 + n\nprint(x)",
    "total = 0\nfor n in range({a}, {b}):\n    if n % 2:\n        total += n\nprint(total)",
    "n = {b}\nsteps = 0\nwhile n > 1:\n    n //= 2\n    steps += 1\nprint(steps)",
    "a, b = {a}, {b}\na, b = b, a + b\nprint(a, b)",
    "print(bin({b}), hex({b} * {a}))",
    "print(len({{{a}, {b}, {a}, {a} + 1}}))",
]
PATTERNS = [
    ("one or more digits", r"\d+"),
    ("words that start with a capital letter", r"\b[A-Z]\w*"),
    ("words of exactly four letters", r"\b[A-Za-z]{4}\b"),
    ("times such as 09:30", r"\b\d{2}:\d{2}\b"),
    ("prices such as $12.50", r"\$\d+\.\d{2}"),
    ("hashtags such as #news", r"#\w+"),
    ("words that end in 'ing'", r"\b\w+ing\b"),
    ("ISO dates such as 2024-05-17", r"\b\d{4}-\d{2}-\d{2}\b"),
]
COMMANDS = read_facts("commands")


def source_of(name: str) -> str:
    """Return the code of one function in SOURCES."""
    return next(part for part in SOURCES.strip().split("\n\n") if part.startswith(f"def {name}("))


def run_code(code: str) -> str:
    """Run a snippet and return what it prints."""
    printed: list[str] = []
    exec(code, {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    return "\n".join(printed)


def people_table(rng: Random, rows: int) -> list[dict[str, Any]]:
    """Draw a small table of people."""
    return [
        {"name": name, "age": rng.randint(18, 80), "city": rng.choice(CITIES)} for name in rng.sample(PEOPLE, rows)
    ]


def write_csv(rows: list[dict[str, Any]]) -> str:
    """Write rows as comma-separated values with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip()


def write_markdown(rows: list[dict[str, Any]]) -> str:
    """Write rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_function(rng: Random) -> Example:
    """Ask for a function, answered with code and a worked example."""
    task, name, technique, draws = rng.choice(FUNCTIONS)
    code = source_of(name)
    call = f"{name}({', '.join(repr(draw(rng)) for draw in draws)})"
    result = run_code(f"{code}\nprint(repr({call}))")
    answer = f"```python\n{code}\n```\nFor example, `{call}` gives `{result}`."
    question = rng.choice(
        [
            f"Write a Python function that {task}. Show an example call.",
            f"In Python, implement `{name}`, which {task}, and say what `{call}` returns.",
        ]
    )
    return ask(question, answer, choose_labels(rng, PYTHON, "programming|coding", technique, "function?"), steps=5)


def predict_output(rng: Random) -> Example:
    """Ask what a snippet prints, answered with the bare output."""
    a = rng.randint(2, 5)
    code = rng.choice(SNIPPETS).format(a=a, b=rng.randint(a + 2, 14))
    labels = choose_labels(rng, PYTHON, "code output prediction|code understanding", "programming|coding?")
    return ask(f"What does this Python code print?\n```python\n{code}\n```", run_code(code), labels, steps=3)


def trace_loop(rng: Random) -> Example:
    """Ask to follow a loop line by line."""
    start, factor, limit = rng.randint(1, 9), rng.randint(2, 3), rng.randint(40, 200)
    code = f"x = {start}\nwhile x < {limit}:\n    x = x * {factor} + 1\nprint(x)"
    values = [start]
    while values[-1] < limit:
        values.append(values[-1] * factor + 1)
    trace = "\n".join(f"{old} < {limit}, so x becomes {old} * {factor} + 1 = {new}" for old, new in pairwise(values))
    answer = f"{trace}\n{values[-1]} is not less than {limit}, so the loop ends and {run_code(code)} is printed."
    question = f"Trace this Python code step by step. What is printed?\n```python\n{code}\n```"
    return ask(
        question, answer, choose_labels(rng, PYTHON, "code tracing|code understanding", "loops", "debugging?"), steps=6
    )


def match_pattern(rng: Random) -> Example:
    """Ask for a regular expression and its matches in a text."""
    what, pattern = rng.choice(PATTERNS)
    hour, name, tag = rng.randint(10, 23), rng.choice(PEOPLE), rng.choice(WORDS)
    text = rng.choice(
        [
            f"{name} is running to room {rng.randint(1, 99)} at {hour}:15 with #{tag} for ${hour}.50",
            f"On 20{hour}-03-{hour} {name} paid ${rng.randint(1, 9)}.99, then kept reading until {hour}:45 #{tag}",
            f"Meeting {name} at 08:{hour}, bring {rng.randint(2, 12)} copies and #{tag} before 2025-11-{hour}",
        ]
    )
    found = re.findall(pattern, text)
    result = f"matches {', '.join(f'`{match}`' for match in found)}" if found else "has no match"
    answer = f"`{pattern}` does this. In the given text it {result}."
    question = f"Give a regular expression for {what} and apply it to: {text}"
    labels = choose_labels(rng, "regular expressions|regex", "pattern matching", "programming|coding?")
    return ask(question, answer, labels, steps=4)


def give_command(rng: Random) -> Example:
    """Ask for a shell command."""
    fact = rng.choice(COMMANDS)
    ext = rng.choice(["txt", "log", "csv", "md"])
    values = {
        "file": f"{rng.choice(['notes', 'access', 'report', 'users'])}.{ext}",
        "n": rng.randint(3, 50),
        "ext": ext,
    }
    answer = f"```bash\n{fact['command'].format(**values)}\n```\nThis works because {fact['reason']}."
    question = rng.choice(["Which shell command do I use to {}?", "In a Linux terminal, how do I {}?"])
    labels = choose_labels(rng, "shell|bash|command line", "linux", fact["label"])
    return ask(question.format(fact["task"].format(**values)), answer, labels, steps=2)


def csv_to_json(rng: Random) -> Example:
    """Ask to turn comma-separated values into JSON."""
    rows = people_table(rng, rng.randint(2, 3))
    answer = f"```json\n{json.dumps(rows, indent=2)}\n```"
    question = f"Convert this CSV to a JSON array of objects, ages as numbers:\n{write_csv(rows)}"
    labels = choose_labels(rng, "json", "csv", "data conversion|format conversion")
    return ask(question, answer, labels, steps=4)


def json_to_csv(rng: Random) -> Example:
    """Ask to turn JSON into comma-separated values."""
    rows = people_table(rng, rng.randint(2, 4))
    labels = choose_labels(rng, "json", "csv", "data conversion|format conversion")
    return ask(f"Convert this JSON to CSV with a header line:\n{json.dumps(rows)}", write_csv(rows), labels, steps=3)


def format_table(rng: Random) -> Example:
    """Ask for a sorted Markdown table."""
    rows, key = people_table(rng, rng.randint(3, 5)), rng.choice(["name", "age"])
    listed = "; ".join(f"{row['name']}, {row['age']}, {row['city']}" for row in rows)
    table = write_markdown(sorted(rows, key=lambda row: (row[key], row["name"])))
    question = f"Make a Markdown table with the columns name, age and city, sorted by {key}: {listed}"
    return ask(
        question, table, choose_labels(rng, "markdown|table formatting", "sorting?", "data formatting"), steps=4
    )


def read_json(rng: Random) -> Example:
    """Ask for one value of a JSON object, answered with the bare value."""
    row = people_table(rng, 1)[0]
    key = rng.choice(list(row))
    text = json.dumps({"user": row, "active": rng.random() < 0.5})
    question = f"What is the value of user.{key} in this JSON? {text}"
    return ask(question, str(row[key]), choose_labels(rng, "json", "information extraction|data extraction"))


def emit_json(rng: Random) -> Example:
    """Ask, under a system message, for facts as JSON and nothing else."""
    row = people_table(rng, 1)[0]
    question = f"{row['name']} is {row['age']} years old and lives in {row['city']}."
    system = "Extract name, age and city from the user's sentence. Reply with one JSON object and nothing else."
    labels = choose_labels(rng, "information extraction|data extraction", "json", "structured output?")
    return ask(question, json.dumps(row), labels, steps=3, system=system)


def query_database(rng: Random) -> Example:
    """Ask for an SQL query and its result."""
    rows, age = people_table(rng, 4), rng.randint(25, 60)
    task, query = rng.choice(
        [
            (
                f"the names of all people older than {age}, in alphabetical order",
                f"SELECT name FROM people WHERE age > {age} ORDER BY name;",
            ),
            (
                "the oldest person's name",
                "SELECT name FROM people WHERE age = (SELECT MAX(age) FROM people) ORDER BY name;",
            ),
            (
                "the number of people per city, cities in alphabetical order",
                "SELECT city, COUNT(*) FROM people GROUP BY city ORDER BY city;",
            ),
            (f"the number of people who are at least {age}", f"SELECT COUNT(*) FROM people WHERE age >= {age};"),
        ]
    )
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE people (name TEXT, age INTEGER, city TEXT)")
        database.executemany("INSERT INTO people VALUES (:name, :age, :city)", rows)
        found = [", ".join(map(str, record)) for record in database.execute(query)]
    result = "\n".join(found) if found else "(no rows)"
    question = f"Write an SQL query for {task}, and give its result on the table people:\n{write_csv(rows)}"
    answer = f"```sql\n{query}\n```\nResult:\n{result}"
    return ask(question, answer, choose_labels(rng, "sql|sql query", "database|databases", "data analysis?"), steps=4)


GENERATORS: dict[Generator, float] = {
    write_function: 3.5,
    predict_output: 2.5,
    trace_loop: 1.0,
    match_pattern: 1.5,
    give_command: 1.5,
    csv_to_json: 0.8,
    json_to_csv: 0.7,
    format_table: 1.0,
    read_json: 1.2,
    emit_json: 0.8,
    query_database: 1.5,
}
