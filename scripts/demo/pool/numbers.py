"""Primes, divisors, sequences, bases and numerals."""

from math import gcd, isqrt
from random import Random

from demo.pool.example import Example, Generator, ask, choose_labels


THEORY = "number theory|mathematics"
ROMAN = dict(M=1000, CM=900, D=500, CD=400, C=100, XC=90, L=50, XL=40, X=10, IX=9, V=5, IV=4, I=1)


def prime_factors(number: int) -> list[int]:
    """Return the prime factors of an integer above 1 in ascending order, each as often as it divides the number."""
    factor = next((d for d in range(2, isqrt(number) + 1) if number % d == 0), number)
    return [factor] if factor == number else [factor, *prime_factors(number // factor)]


def roman_parts(number: int) -> list[tuple[int, str]]:
    """Split a positive number into the values and the letters of its Roman numeral."""
    parts = []
    for numeral, value in ROMAN.items():
        while number >= value:
            parts.append((value, numeral))
            number -= value
    return parts


def decide_primality(rng: Random) -> Example:
    """Ask whether a number is prime."""
    number = rng.randint(20, 700)
    smallest = prime_factors(number)[0]
    if smallest == number:
        answer = f"Yes, {number} is prime, because no whole number from 2 to {isqrt(number)} divides it."
    else:
        answer = f"No, {number} is not prime, because {number} = {smallest} * {number // smallest}."
    question = rng.choice([f"Is {number} a prime number?", f"Is {number} prime? Give a reason."])
    return ask(question, answer, choose_labels(rng, "prime numbers|primality testing", THEORY), steps=3)


def factorise(rng: Random) -> Example:
    """Ask for the prime factors of a number."""
    number = rng.randint(12, 999)
    factors = prime_factors(number)
    if len(factors) == 1:
        answer = f"{number} is itself a prime number, so its only prime factor is {number}."
    else:
        answer = f"{number} = {' * '.join(map(str, factors))}; every factor is prime, so this is complete."
    labels = choose_labels(rng, "prime factorization|factorization", THEORY)
    return ask(f"Write {number} as a product of prime numbers.", answer, labels, steps=len(factors) + 1)


def run_euclid(rng: Random) -> Example:
    """Ask for a greatest common divisor by Euclid's algorithm."""
    factor = rng.randint(2, 24)
    b, a = sorted(factor * n for n in rng.sample(range(2, 40), 2))
    question = f"Find the greatest common divisor of {a} and {b} with Euclid's algorithm."
    lines, divisor = [], gcd(a, b)
    while b:
        lines.append(f"{a} = {a // b} * {b} + {a % b}")
        a, b = b, a % b
    answer = "\n".join([*lines, f"The last divisor is {divisor}, so the greatest common divisor is {divisor}."])
    labels = choose_labels(rng, "greatest common divisor|gcd", "euclidean algorithm|algorithm?", THEORY)
    return ask(question, answer, labels, steps=len(lines) + 1)


def find_common_multiple(rng: Random) -> Example:
    """Ask for a least common multiple."""
    a, b = rng.sample(range(4, 40), 2)
    shared = gcd(a, b)
    answer = (
        f"The greatest common divisor of {a} and {b} is {shared}, so the least common multiple is "
        f"{a} * {b} / {shared} = {a * b // shared}."
    )
    labels = choose_labels(rng, "least common multiple|lcm", THEORY)
    return ask(f"What is the least common multiple of {a} and {b}?", answer, labels, steps=3)


def list_divisors(rng: Random) -> Example:
    """Ask for all divisors of a number."""
    number = rng.randint(10, 150)
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    answer = f"{', '.join(map(str, divisors))}. That is {len(divisors)} divisors."
    return ask(f"List all positive divisors of {number}.", answer, choose_labels(rng, "divisors", THEORY), steps=2)


def decide_divisibility(rng: Random) -> Example:
    """Ask whether a number can be divided by 3 or 9, from its digits."""
    number, divisor = rng.randint(1000, 99999), rng.choice([3, 9])
    digits = [int(digit) for digit in str(number)]
    total = sum(digits)
    verdict = "is" if total % divisor == 0 else "is not"
    answer = (
        f"The digit sum is {' + '.join(map(str, digits))} = {total}. "
        f"{total} {verdict} divisible by {divisor}, so {number} {verdict} divisible by {divisor}."
    )
    question = f"Use the digit sum to decide whether {number} is divisible by {divisor}."
    return ask(question, answer, choose_labels(rng, "divisibility rules|divisibility", THEORY), steps=3)


def continue_sequence(rng: Random) -> Example:
    """Ask for the next numbers of an arithmetic, geometric or square sequence."""
    start, step, kind = rng.randint(1, 20), rng.randint(2, 9), rng.choice(["arithmetic", "geometric", "square"])
    if kind == "arithmetic":
        terms, rule = [start + step * n for n in range(7)], f"each number is {step} more than the one before"
    elif kind == "geometric":
        step = rng.randint(2, 4)
        terms, rule = [start * step**n for n in range(7)], f"each number is {step} times the one before"
    else:
        terms, rule = [(start + n) ** 2 for n in range(7)], f"these are the squares of {start}, {start + 1}, and so on"
    shown, hidden = terms[:5], terms[5:]
    answer = f"The next two numbers are {hidden[0]} and {hidden[1]}, because {rule}."
    question = f"Continue the sequence with two more numbers: {', '.join(map(str, shown))}, ..."
    labels = choose_labels(rng, "sequences|number sequence", "pattern recognition|pattern?", "mathematics|math")
    return ask(question, answer, labels, steps=3)


def find_term(rng: Random) -> Example:
    """Ask for one term of an arithmetic sequence."""
    start, step, number = rng.randint(1, 20), rng.randint(2, 12), rng.randint(10, 60)
    term = start + (number - 1) * step
    answer = f"The term is start + (n - 1) * step = {start} + {number - 1} * {step} = {term}."
    question = f"An arithmetic sequence starts with {start} and grows by {step}. What is term number {number}?"
    return ask(question, answer, choose_labels(rng, "sequences|arithmetic sequence", "mathematics|math"), steps=3)


def list_fibonacci(rng: Random) -> Example:
    """Ask for the first Fibonacci-like numbers from two given ones."""
    terms, count = [rng.randint(0, 9), rng.randint(1, 9)], rng.randint(6, 9)
    first, second = terms
    while len(terms) < count:
        terms.append(terms[-2] + terms[-1])
    question = (
        f"A sequence starts with {first} and {second}, and each later number is the sum of the two before it. "
        f"List its first {count} numbers."
    )
    answer = f"{', '.join(map(str, terms))}. For example, the third is {first} + {second} = {terms[2]}."
    return ask(question, answer, choose_labels(rng, "fibonacci|sequences", "recursion?", "mathematics|math"), steps=4)


def sum_first_numbers(rng: Random) -> Example:
    """Ask for the sum of 1 to n."""
    n = rng.randint(10, 200)
    total = n * (n + 1) // 2
    answer = f"By Gauss's formula the sum is n * (n + 1) / 2 = {n} * {n + 1} / 2 = {total}."
    question = f"What is the sum of all whole numbers from 1 to {n}?"
    return ask(question, answer, choose_labels(rng, "series|summation", "mathematics|math"), steps=3)


def convert_to_binary(rng: Random) -> Example:
    """Ask for a decimal number in binary."""
    number = rng.randint(5, 255)
    powers = [2**bit for bit in range(7, -1, -1) if number >> bit & 1]
    answer = f"{number} = {' + '.join(map(str, powers))}, so in binary it is {number:b}."
    labels = choose_labels(rng, "binary|binary numbers", "base conversion|number base conversion", "computer science?")
    return ask(f"Convert {number} to binary.", answer, labels, steps=3)


def convert_from_base(rng: Random) -> Example:
    """Ask for the decimal value of a binary, octal or hexadecimal number."""
    number = rng.randint(17, 999)
    name, digits, base = rng.choice([("binary", "b", 2), ("octal", "o", 8), ("hexadecimal", "X", 16)])
    written = format(number, digits)
    parts = [f"{int(digit, 16)} * {base ** (len(written) - 1 - index)}" for index, digit in enumerate(written)]
    parts = [part for part in parts if not part.startswith("0 ")]
    answer = f"{' + '.join(parts)} = {number}, so {written} in {name} is {number} in decimal."
    labels = choose_labels(
        rng, f"{name}|{name} numbers", "base conversion|number base conversion", "computer science?"
    )
    return ask(f"What is the {name} number {written} in decimal?", answer, labels, steps=4)


def write_hexadecimal(rng: Random) -> Example:
    """Ask for the hexadecimal code of a color."""
    red, green, blue = (rng.randint(0, 255) for _ in range(3))
    answer = (
        f"#{red:02X}{green:02X}{blue:02X}, because {red} = {red:02X}, {green} = {green:02X} and {blue} = {blue:02X}."
    )
    question = f"Write the RGB colour ({red}, {green}, {blue}) as a hexadecimal code."
    labels = choose_labels(rng, "hexadecimal|hexadecimal numbers", "color codes|web design", "css?")
    return ask(question, answer, labels, steps=3)


def write_roman(rng: Random) -> Example:
    """Ask for a number in Roman numerals."""
    number = rng.randint(4, 2100)
    parts = roman_parts(number)
    answer = f"{number} = {' + '.join(str(value) for value, _ in parts)}, so it is {''.join(n for _, n in parts)}."
    labels = choose_labels(rng, "roman numerals", "number conversion|conversion?", "history?")
    return ask(f"Write {number} in Roman numerals.", answer, labels, steps=2)


def read_roman(rng: Random) -> Example:
    """Ask for the value of a Roman numeral."""
    number = rng.randint(4, 2100)
    written = "".join(numeral for _, numeral in roman_parts(number))
    question = rng.choice([f"What number is {written}?", f"Convert the Roman numeral {written} to a number."])
    return ask(
        question, f"{written} is {number}.", choose_labels(rng, "roman numerals", "number conversion?"), steps=2
    )


def take_remainder_of_power(rng: Random) -> Example:
    """Ask for the last digit of a power, from the cycle of last digits."""
    base, exponent = rng.choice([2, 3, 4, 7, 8, 9]), rng.randint(10, 120)
    cycle = [pow(base, 1 + n, 10) for n in range(4)]
    position = (exponent - 1) % 4 + 1
    answer = (
        f"The last digits of {base}^1, {base}^2, {base}^3 and {base}^4 are {', '.join(map(str, cycle))}, and then "
        f"they repeat. {exponent} has place {position} in this cycle, so the last digit is {cycle[position - 1]}."
    )
    labels = choose_labels(rng, "modular arithmetic", "exponents|powers", THEORY)
    return ask(f"What is the last digit of {base}^{exponent}?", answer, labels, steps=5)


def round_number(rng: Random) -> Example:
    """Ask to round a decimal number; never a tie."""
    whole, thousandths = rng.randint(1, 99), rng.choice([n for n in range(1000) if n % 10 not in (0, 5)])
    number = whole + thousandths / 1000
    answer = f"{number:.2f}"
    labels = choose_labels(rng, "rounding|number rounding", "decimals?", "arithmetic?")
    return ask(f"Round {number:.3f} to two decimal places.", answer, labels)


def order_numbers(rng: Random) -> Example:
    """Ask to sort numbers, answered with the bare list."""
    numbers = rng.sample(range(-50, 100), rng.randint(4, 7))
    name, reverse = rng.choice([("ascending", False), ("descending", True)])
    answer = ", ".join(map(str, sorted(numbers, reverse=reverse)))
    question = f"Sort these numbers in {name} order: {', '.join(map(str, numbers))}"
    return ask(question, answer, choose_labels(rng, "sorting|number sorting", "data manipulation?"))


GENERATORS: dict[Generator, float] = {
    decide_primality: 1.5,
    factorise: 1.2,
    run_euclid: 1.0,
    find_common_multiple: 0.8,
    list_divisors: 0.8,
    decide_divisibility: 0.8,
    continue_sequence: 1.5,
    find_term: 0.6,
    list_fibonacci: 0.5,
    sum_first_numbers: 0.5,
    convert_to_binary: 1.0,
    convert_from_base: 1.2,
    write_hexadecimal: 0.6,
    write_roman: 1.0,
    read_roman: 1.0,
    take_remainder_of_power: 0.6,
    round_number: 1.5,
    order_numbers: 1.5,
}
