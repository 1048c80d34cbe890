"""Sums, fractions, percentages, equations and small word problems."""

from fractions import Fraction
from math import gcd, lcm
from random import Random
from statistics import median

from demo.pool.example import Example, Generator, ask, choose_labels


MATH = "mathematics|math|maths"
NAMES = ["Ana", "Ben", "Chen", "Dina", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena"]
GOODS = ["pencil", "notebook", "ticket", "sandwich", "plant", "poster", "candle", "ruler", "mug", "lamp"]


def add_two_numbers(rng: Random) -> Example:
    """Ask for a small sum, answered with the bare number."""
    a, b = rng.randint(1, 60), rng.randint(1, 60)
    question = rng.choice([f"What is {a} + {b}?", f"{a} + {b} = ?", f"Add {a} and {b}.", f"Calculate {a} plus {b}."])
    return ask(question, str(a + b), choose_labels(rng, "arithmetic|basic arithmetic", "addition|sum?", f"{MATH}?"))


def subtract_two_numbers(rng: Random) -> Example:
    """Ask for a small difference, answered with the bare number."""
    b, difference = rng.randint(1, 40), rng.randint(1, 40)
    a = b + difference
    question = rng.choice([f"What is {a} - {b}?", f"{a} - {b} = ?", f"Subtract {b} from {a}."])
    return ask(
        question, str(difference), choose_labels(rng, "arithmetic|basic arithmetic", "subtraction?", f"{MATH}?")
    )


def multiply_two_digits(rng: Random) -> Example:
    """Ask for a line of the times tables."""
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    question = rng.choice([f"What is {a} times {b}?", f"{a} * {b} = ?", f"Multiply {a} by {b}."])
    return ask(question, str(a * b), choose_labels(rng, "arithmetic|basic arithmetic", "multiplication?", f"{MATH}?"))


def multiply_in_parts(rng: Random) -> Example:
    """Ask for a product of larger numbers, worked out by splitting one of them."""
    a, tens, ones = rng.randint(12, 99), rng.randint(1, 9) * 10, rng.randint(1, 9)
    b = tens + ones
    answer = (
        f"Split {b} into {tens} + {ones}.\n{a} * {tens} = {a * tens}\n{a} * {ones} = {a * ones}\n"
        f"Adding the parts gives {a * tens} + {a * ones} = {a * b}."
    )
    question = f"Work out {a} * {b} without a calculator and show the steps."
    return ask(question, answer, choose_labels(rng, "multiplication", "mental math|mental arithmetic", MATH), steps=4)


def divide_with_remainder(rng: Random) -> Example:
    """Ask for a quotient and what is left over."""
    divisor, dividend = rng.randint(3, 25), rng.randint(50, 999)
    quotient, remainder = divmod(dividend, divisor)
    answer = (
        f"{divisor} * {quotient} = {divisor * quotient}, and {dividend} - {divisor * quotient} = {remainder}, "
        f"so the quotient is {quotient} and the remainder is {remainder}."
    )
    question = f"Divide {dividend} by {divisor}. Give the quotient and the remainder."
    return ask(question, answer, choose_labels(rng, "division", "arithmetic", f"{MATH}?"), steps=2)


def follow_order_of_operations(rng: Random) -> Example:
    """Ask for an expression in which the order of the operations matters."""
    a, b, c, d = (rng.randint(2, 12) for _ in range(4))
    answer = (
        f"Parentheses first: {a} + {b} = {a + b}.\nThen multiplication: {a + b} * {c} = {(a + b) * c}.\n"
        f"Then subtraction: {(a + b) * c} - {d} = {(a + b) * c - d}.\nThe value is {(a + b) * c - d}."
    )
    labels = choose_labels(rng, "order of operations", "arithmetic", f"{MATH}?", "step-by-step explanation?")
    return ask(f"Evaluate ({a} + {b}) * {c} - {d} step by step.", answer, labels, steps=4)


def add_fractions(rng: Random) -> Example:
    """Ask for a sum of two fractions in lowest terms."""
    b, d = rng.sample(range(2, 13), 2)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    common = lcm(b, d)
    total = Fraction(a, b) + Fraction(c, d)
    top = a * common // b + c * common // d
    lowest = "" if gcd(top, common) == 1 else f" = {total}"
    answer = (
        f"The common denominator of {b} and {d} is {common}, so "
        f"{a}/{b} + {c}/{d} = {a * common // b}/{common} + {c * common // d}/{common} = {top}/{common}{lowest}."
    )
    question = rng.choice([f"Add {a}/{b} and {c}/{d}.", f"What is {a}/{b} + {c}/{d} in lowest terms?"])
    return ask(question, answer, choose_labels(rng, "fractions|fraction arithmetic", "addition?", MATH), steps=3)


def simplify_fraction(rng: Random) -> Example:
    """Ask for a fraction in lowest terms."""
    reduced, factor = Fraction(rng.randint(1, 15), rng.randint(16, 30)), rng.randint(2, 9)
    top, bottom = reduced.numerator * factor, reduced.denominator * factor
    answer = f"Both numbers can be divided by {factor}, so {top}/{bottom} = {reduced}."
    labels = choose_labels(rng, "fractions|fraction simplification", MATH)
    return ask(f"Simplify the fraction {top}/{bottom}.", answer, labels, steps=2)


def compare_fractions(rng: Random) -> Example:
    """Ask which of two fractions is larger."""
    b, d = rng.sample(range(3, 15), 2)
    a, c = rng.randint(1, b - 1), rng.randint(1, d - 1)
    left, right = a * d, c * b
    sign = "=" if left == right else "<" if left < right else ">"
    verdict = "they are equal" if left == right else f"the larger one is {max(Fraction(a, b), Fraction(c, d))}"
    answer = f"Cross-multiply: {a} * {d} = {left} and {c} * {b} = {right}. Since {left} {sign} {right}, {verdict}."
    labels = choose_labels(rng, "fractions", "comparison|number comparison", f"{MATH}?")
    return ask(f"Which is larger, {a}/{b} or {c}/{d}?", answer, labels, steps=3)


def take_percentage(rng: Random) -> Example:
    """Ask for a percentage of a round number."""
    percent, whole = rng.randrange(5, 100, 5), rng.randrange(20, 1000, 20)
    part = percent * whole // 100
    answer = f"{percent}% means {percent} out of 100, so {percent}% of {whole} = {percent} * {whole} / 100 = {part}."
    return ask(f"What is {percent}% of {whole}?", answer, choose_labels(rng, "percentage|percentages", MATH), steps=2)


def discount_price(rng: Random) -> Example:
    """Ask for a price after a discount."""
    price, percent, good = rng.randrange(20, 400, 20), rng.choice([5, 10, 15, 20, 25, 30, 40, 50]), rng.choice(GOODS)
    saved = price * percent // 100
    answer = (
        f"The discount is {percent}% of ${price} = ${saved}. The new price is ${price} - ${saved} = ${price - saved}."
    )
    question = f"A {good} costs ${price} and is {percent}% off. What is the new price?"
    labels = choose_labels(rng, "percentage|discount calculation", "word problem|math word problem", "shopping?")
    return ask(question, answer, labels, steps=3)


def change_in_percent(rng: Random) -> Example:
    """Ask by how many percent a value rose or fell."""
    before, percent = rng.randrange(20, 500, 20), rng.choice([-60, -50, -25, -20, -10, 5, 10, 20, 25, 50, 75])
    after = before + before * percent // 100
    verb = "rose" if percent > 0 else "fell"
    answer = (
        f"The change is {after} - {before} = {after - before}. Relative to the start, {after - before} / {before} "
        f"= {percent / 100:g}, so the number {verb} by {abs(percent)}%."
    )
    question = f"The number of visitors went from {before} to {after}. What is the change in percent?"
    return ask(question, answer, choose_labels(rng, "percentage change|percentage", "data analysis?", MATH), steps=3)


def share_by_ratio(rng: Random) -> Example:
    """Ask to share money in a ratio."""
    first, second = rng.sample(NAMES, 2)
    a, b, unit = rng.randint(1, 7), rng.randint(1, 7), rng.randint(2, 25)
    total = (a + b) * unit
    answer = (
        f"There are {a} + {b} = {a + b} parts, so one part is {total} / {a + b} = {unit} dollars.\n"
        f"{first} gets {a} * {unit} = {a * unit} dollars and {second} gets {b} * {unit} = {b * unit} dollars."
    )
    question = f"{first} and {second} share {total} dollars in the ratio {a}:{b}. How much does each of them get?"
    return ask(question, answer, choose_labels(rng, "ratio|ratios", "word problem|math word problem", MATH), steps=4)


def summarise_numbers(rng: Random) -> Example:
    """Ask for mean, median and range of a few numbers."""
    numbers = [rng.randint(1, 50) for _ in range(rng.choice([4, 5, 6]))]
    ordered, mean = sorted(numbers), Fraction(sum(numbers), len(numbers))
    answer = (
        f"Sorted: {', '.join(map(str, ordered))}\nMean: {sum(numbers)} / {len(numbers)} = {mean}\n"
        f"Median: {median(numbers):g}\nRange: {ordered[-1]} - {ordered[0]} = {ordered[-1] - ordered[0]}"
    )
    question = f"Find the mean (as an exact fraction), the median and the range of {', '.join(map(str, numbers))}."
    labels = choose_labels(rng, "statistics|descriptive statistics", "average|mean calculation?", f"{MATH}?")
    return ask(question, answer, labels, steps=5)


def solve_linear_equation(rng: Random) -> Example:
    """Ask for the solution of a linear equation."""
    a, x, b = rng.randint(2, 12), rng.randint(-12, 12), rng.randint(1, 30)
    c = a * x + b
    answer = (
        f"Subtract {b} from both sides: {a}x = {c - b}.\nDivide both sides by {a}: x = {x}.\n"
        f"Check: {a} * ({x}) + {b} = {c}."
    )
    labels = choose_labels(rng, "algebra|linear equations", "equation solving|solving equations", MATH)
    return ask(f"Solve {a}x + {b} = {c} for x.", answer, labels, steps=4)


def solve_two_equations(rng: Random) -> Example:
    """Ask for two numbers with a given sum and difference."""
    small, gap = rng.randint(1, 60), rng.randint(1, 40)
    large = small + gap
    answer = (
        f"Call them x and y with x + y = {small + large} and x - y = {gap}.\n"
        f"Adding the equations gives 2x = {2 * large}, so x = {large}.\n"
        f"Then y = {small + large} - {large} = {small}."
    )
    question = f"Two numbers have the sum {small + large} and the difference {gap}. Which numbers are they?"
    labels = choose_labels(rng, "algebra|system of equations", "equation solving?", "problem solving?", MATH)
    return ask(question, answer, labels, steps=5)


def earn_interest(rng: Random) -> Example:
    """Ask for simple interest."""
    principal, rate, years = rng.randrange(100, 5000, 100), rng.randint(1, 9), rng.randint(2, 8)
    interest = principal * rate * years // 100
    answer = (
        f"Simple interest = principal * rate * time = {principal} * {rate}/100 * {years} = {interest}.\n"
        f"The balance is {principal} + {interest} = {principal + interest} dollars."
    )
    question = (
        f"{rng.choice(NAMES)} puts {principal} dollars into an account with {rate}% simple interest per year. "
        f"How much interest is earned in {years} years, and what is the balance then?"
    )
    return ask(question, answer, choose_labels(rng, "finance|personal finance", "interest calculation", MATH), steps=4)


def measure_rectangle(rng: Random) -> Example:
    """Ask for area and perimeter of a rectangle."""
    width, height, unit = rng.randint(2, 30), rng.randint(2, 30), rng.choice(["cm", "m"])
    answer = (
        f"Area = {width} * {height} = {width * height} square {unit}.\n"
        f"Perimeter = 2 * ({width} + {height}) = {2 * (width + height)} {unit}."
    )
    question = f"A rectangle is {width} {unit} wide and {height} {unit} high. What are its area and its perimeter?"
    return ask(question, answer, choose_labels(rng, "geometry", "area calculation?", MATH), steps=3)


def find_hypotenuse(rng: Random) -> Example:
    """Ask for the long side of a right triangle with whole sides."""
    factor = rng.randint(1, 9)
    triple = rng.choice([(3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29)])
    a, b, c = (side * factor for side in triple)
    answer = (
        f"By the Pythagorean theorem c^2 = {a}^2 + {b}^2 = {a * a} + {b * b} = {c * c}, "
        f"so c is the square root of {c * c}, which is {c} cm."
    )
    question = f"The legs of a right triangle are {a} cm and {b} cm long. How long is the hypotenuse?"
    return ask(question, answer, choose_labels(rng, "geometry", "pythagorean theorem|trigonometry", MATH), steps=4)


def travel_time(rng: Random) -> Example:
    """Ask how long a journey takes at a steady speed."""
    speed, quarters = rng.randrange(20, 130, 4), rng.randint(2, 20)
    distance, hours, minutes = speed * quarters // 4, quarters // 4, quarters % 4 * 15
    spoken = f"{hours} h {minutes} min" if minutes else f"{hours} h"
    answer = f"Time = distance / speed = {distance} / {speed} = {quarters / 4:g} hours, which is {spoken}."
    question = f"A {rng.choice(['train', 'bus', 'car'])} travels {distance} km at {speed} km/h. How long does it take?"
    return ask(question, answer, choose_labels(rng, "physics|kinematics", "word problem|math word problem"), steps=3)


def scale_recipe(rng: Random) -> Example:
    """Ask to scale a recipe to more people."""
    people, factor = rng.randint(2, 6), rng.randint(2, 5)
    amounts = {"g of flour": rng.randrange(100, 500, 50), "ml of milk": rng.randrange(100, 500, 50), "eggs": 3}
    lines = [f"- {amount} * {factor} = {amount * factor} {what}" for what, amount in amounts.items()]
    answer = f"The factor is {people * factor} / {people} = {factor}, so:\n" + "\n".join(lines)
    listed = ", ".join(f"{amount} {what}" for what, amount in amounts.items())
    question = f"A recipe for {people} people needs {listed}. How much is needed for {people * factor} people?"
    return ask(question, answer, choose_labels(rng, "cooking|recipe", "proportion|ratio", f"{MATH}?"), steps=4)


def go_shopping(rng: Random) -> Example:
    """Ask for the change after buying a few things."""
    (first, second), name = rng.sample(GOODS, 2), rng.choice(NAMES)
    m, n, p, q = rng.randint(2, 6), rng.randint(2, 6), rng.randint(1, 9), rng.randint(1, 9)
    total = m * p + n * q
    paid = (total // 50 + 1) * 50
    answer = (
        f"The {first}s cost {m} * {p} = {m * p} dollars and the {second}s cost {n} * {q} = {n * q} dollars, "
        f"together {total} dollars.\nThe change is {paid} - {total} = {paid - total} dollars."
    )
    question = (
        f"{name} buys {m} {first}s at ${p} each and {n} {second}s at ${q} each and pays with ${paid}. "
        f"How much change does {name} get?"
    )
    labels = choose_labels(rng, "word problem|math word problem", "arithmetic", "shopping?", "money calculation?")
    return ask(question, answer, labels, steps=4)


GENERATORS: dict[Generator, float] = {
    add_two_numbers: 14.0,
    subtract_two_numbers: 6.0,
    multiply_two_digits: 4.0,
    multiply_in_parts: 1.0,
    divide_with_remainder: 1.0,
    follow_order_of_operations: 1.0,
    add_fractions: 1.0,
    simplify_fraction: 1.0,
    compare_fractions: 0.7,
    take_percentage: 1.5,
    discount_price: 1.0,
    change_in_percent: 0.7,
    share_by_ratio: 0.7,
    summarise_numbers: 1.0,
    solve_linear_equation: 1.0,
    solve_two_equations: 0.7,
    earn_interest: 0.6,
    measure_rectangle: 1.0,
    find_hypotenuse: 0.5,
    travel_time: 0.8,
    scale_recipe: 0.6,
    go_shopping: 0.8,
}
"""How often each generator is drawn; the trivial sums are meant to be too many."""
