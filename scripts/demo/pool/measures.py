"""Units, clocks and calendars."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from random import Random

from demo.pool.example import Example, Generator, ask, choose_labels


FACTORS = {
    "length": [
        ("kilometers", "meters", "1000"),
        ("meters", "centimeters", "100"),
        ("centimeters", "millimeters", "10"),
        ("inches", "centimeters", "2.54"),
        ("feet", "inches", "12"),
        ("yards", "meters", "0.9144"),
        ("miles", "kilometers", "1.609344"),
    ],
    "weight": [
        ("kilograms", "grams", "1000"),
        ("grams", "milligrams", "1000"),
        ("pounds", "ounces", "16"),
        ("pounds", "kilograms", "0.45359237"),
        ("tonnes", "kilograms", "1000"),
    ],
    "volume": [
        ("liters", "milliliters", "1000"),
        ("cubic meters", "liters", "1000"),
        ("US gallons", "US quarts", "4"),
    ],
    "time": [
        ("hours", "minutes", "60"),
        ("minutes", "seconds", "60"),
        ("days", "hours", "24"),
        ("weeks", "days", "7"),
    ],
    "area": [("hectares", "square meters", "10000"), ("square meters", "square centimeters", "10000")],
    "data size": [("bytes", "bits", "8"), ("kibibytes", "bytes", "1024"), ("gigabytes", "megabytes", "1000")],
}
"""For each quantity: a unit, a smaller or other unit, and exactly how many of the second make one of the first."""
DATES = "date calculation|date arithmetic"
EVENTS = ["meeting", "concert", "lesson", "film", "workshop", "match", "flight", "lecture"]


def any_date(rng: Random, first_year: int = 1950, last_year: int = 2035) -> date:
    """Draw a day between the starts of two years."""
    first, last = date(first_year, 1, 1), date(last_year, 12, 31)
    return first + timedelta(days=rng.randint(0, (last - first).days))


def long_date(day: date) -> str:
    """Write a date as ``4 July 1976``."""
    return f"{day.day} {day:%B %Y}"


def plain(number: Decimal) -> str:
    """Write a decimal number without exponent or trailing zeros."""
    written = f"{number:f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def convert_unit(rng: Random) -> Example:
    """Ask for a quantity in another unit, the factor shown."""
    quantity = rng.choice(list(FACTORS))
    unit, other, factor = rng.choice(FACTORS[quantity])
    amount = Decimal(rng.randint(2, 60)) / rng.choice([1, 1, 2, 4])
    result = plain(amount * Decimal(factor))
    answer = f"Multiply the number of {unit} by {factor}, so {plain(amount)} {unit} = {result} {other}."
    question = rng.choice(
        [f"Convert {plain(amount)} {unit} to {other}.", f"How many {other} are {plain(amount)} {unit}?"]
    )
    labels = choose_labels(rng, "unit conversion|measurement conversion", f"{quantity}|{quantity} conversion?")
    return ask(question, answer, labels, steps=2)


def convert_metric(rng: Random) -> Example:
    """Ask for a metric conversion, answered with the bare number."""
    amount, (unit, other, factor) = (
        rng.randint(1, 90),
        rng.choice([("m", "cm", 100), ("km", "m", 1000), ("kg", "g", 1000)]),
    )
    labels = choose_labels(rng, "unit conversion|measurement conversion", "metric system?")
    return ask(f"{amount} {unit} = ? {other}", f"{amount * factor} {other}", labels)


def convert_temperature(rng: Random) -> Example:
    """Ask for a temperature in the other scale, exactly."""
    celsius = rng.randrange(-40, 105, 5)
    fahrenheit = celsius * 9 // 5 + 32
    if rng.random() < 0.5:
        question = f"What is {celsius} degrees Celsius in Fahrenheit?"
        answer = f"F = C * 9/5 + 32 = {celsius} * 9/5 + 32 = {fahrenheit}, so it is {fahrenheit} degrees Fahrenheit."
    else:
        question = f"What is {fahrenheit} degrees Fahrenheit in Celsius?"
        answer = f"C = (F - 32) * 5/9 = {fahrenheit - 32} * 5/9 = {celsius}, so it is {celsius} degrees Celsius."
    return ask(question, answer, choose_labels(rng, "temperature conversion|unit conversion", "physics?"), steps=3)


def name_weekday(rng: Random) -> Example:
    """Ask for the weekday of a date, answered with the bare name."""
    day = any_date(rng)
    question = rng.choice([f"What day of the week was or will be {long_date(day)}?", f"Weekday of {day.isoformat()}?"])
    return ask(question, f"{day:%A}", choose_labels(rng, "calendar|day of the week", f"{DATES}?"), steps=2)


def count_days(rng: Random) -> Example:
    """Ask for the number of days between two dates, month by month."""
    start = any_date(rng, 2000, 2030)
    end = start + timedelta(days=rng.randint(20, 200))
    weeks, days = divmod((end - start).days, 7)
    answer = (
        f"From {long_date(start)} to {long_date(end)} there are {(end - start).days} days, "
        f"which is {weeks} weeks and {days} days, not counting the first day."
    )
    question = f"How many days are there from {long_date(start)} to {long_date(end)}?"
    return ask(question, answer, choose_labels(rng, DATES, "calendar?"), steps=4)


def add_days(rng: Random) -> Example:
    """Ask for the date some days later."""
    start, days = any_date(rng, 2000, 2030), rng.randint(8, 120)
    end = start + timedelta(days=days)
    answer = f"{days} days after {long_date(start)} is {end:%A}, {long_date(end)}."
    question = f"Which date is {days} days after {long_date(start)}? Name the weekday too."
    return ask(question, answer, choose_labels(rng, DATES, "calendar|day of the week?"), steps=4)


def decide_leap_year(rng: Random) -> Example:
    """Ask whether a year is a leap year."""
    year = rng.choice([rng.randint(1850, 2150), rng.randrange(1600, 2500, 100)])
    if year % 400 == 0:
        answer = f"Yes. {year} is divisible by 400, so it is a leap year."
    elif year % 100 == 0:
        answer = f"No. {year} is divisible by 100 but not by 400, so it is not a leap year."
    elif year % 4 == 0:
        answer = f"Yes. {year} is divisible by 4 and not by 100, so it is a leap year."
    else:
        answer = f"No. {year} is not divisible by 4, so it is not a leap year."
    question = f"Is {year} a leap year in the Gregorian calendar?"
    return ask(question, answer, choose_labels(rng, "leap year", "calendar", f"{DATES}?"), steps=3)


def reformat_date(rng: Random) -> Example:
    """Ask for a date in another notation."""
    day = any_date(rng)
    name, written = rng.choice(
        [
            ("ISO 8601 (YYYY-MM-DD)", day.isoformat()),
            ("US notation (MM/DD/YYYY)", f"{day:%m/%d/%Y}"),
            ("German notation (DD.MM.YYYY)", f"{day:%d.%m.%Y}"),
        ]
    )
    labels = choose_labels(rng, "date formatting|date format", "text formatting|formatting?")
    return ask(f"Write the date {long_date(day)} in {name}.", written, labels)


def count_days_in_month(rng: Random) -> Example:
    """Ask for the length of a month."""
    year, month = rng.randint(1990, 2032), rng.randint(1, 12)
    first = date(year, month, 1)
    days = ((first + timedelta(days=31)).replace(day=1) - first).days
    answer = f"{first:%B} {year} has {days} days."
    return ask(f"How many days does {first:%B} {year} have?", answer, choose_labels(rng, "calendar", "months?"))


def end_of_event(rng: Random) -> Example:
    """Ask when something ends."""
    start = datetime(2024, 1, 1, rng.randint(7, 20), rng.randrange(0, 60, 5))
    minutes = rng.randrange(35, 230, 5)
    end = start + timedelta(minutes=minutes)
    hours, rest = divmod(minutes, 60)
    spoken = f"{hours} h {rest} min" if hours else f"{rest} min"
    answer = f"{minutes} minutes = {spoken}, so it ends at {end:%H:%M}."
    question = f"A {rng.choice(EVENTS)} starts at {start:%H:%M} and lasts {minutes} minutes. When does it end?"
    return ask(question, answer, choose_labels(rng, "time calculation", "scheduling|time management?"), steps=3)


def read_clock(rng: Random) -> Example:
    """Ask for a time in the other clock notation."""
    time = datetime(2024, 1, 1, rng.randint(0, 23), rng.randint(0, 59))
    twelve = f"{time.hour % 12 or 12}:{time:%M} {'a.m.' if time.hour < 12 else 'p.m.'}"
    if rng.random() < 0.5:
        question, answer = f"Write {twelve} in 24-hour time.", f"{time:%H:%M}"
    else:
        question, answer = f"Write {time:%H:%M} in 12-hour time with a.m. or p.m.", twelve
    return ask(question, answer, choose_labels(rng, "time format|time conversion", "time calculation?"))


def compare_clocks(rng: Random) -> Example:
    """Ask for the time at another offset from UTC."""
    here, there = rng.sample(range(-8, 13), 2)
    time = datetime(2024, 1, 1, rng.randint(0, 23), rng.randrange(0, 60, 10))
    other = time + timedelta(hours=there - here)
    day = {-1: "on the day before", 0: "on the same day", 1: "on the next day"}[(other.date() - time.date()).days]
    direction = "ahead of" if there > here else "behind"
    answer = (
        f"UTC{there:+d} is {abs(there - here)} hours {direction} UTC{here:+d}, so it is {other:%H:%M} {day} there."
    ).replace(" 1 hours ", " 1 hour ")
    question = f"It is {time:%H:%M} at UTC{here:+d}. What time is it at UTC{there:+d}?"
    return ask(question, answer, choose_labels(rng, "time zones|time zone conversion", "time calculation?"), steps=4)


def tell_age(rng: Random) -> Example:
    """Ask for an age on a given day."""
    born, today = any_date(rng, 1940, 2005), any_date(rng, 2010, 2030)
    had_birthday = (today.month, today.day) >= (born.month, born.day)
    age = today.year - born.year - (not had_birthday)
    reason = "has already been" if had_birthday else "is still to come"
    answer = f"The birthday in {today.year} {reason} on that day, so the person is {age} years old."
    question = f"A person was born on {long_date(born)}. How old is this person on {long_date(today)}?"
    return ask(question, answer, choose_labels(rng, "age calculation", DATES), steps=4)


GENERATORS: dict[Generator, float] = {
    convert_unit: 3.0,
    convert_metric: 3.0,
    convert_temperature: 1.0,
    name_weekday: 2.0,
    count_days: 1.0,
    add_days: 1.0,
    decide_leap_year: 1.0,
    reformat_date: 1.2,
    count_days_in_month: 1.2,
    end_of_event: 1.0,
    read_clock: 1.2,
    compare_clocks: 0.8,
    tell_age: 0.7,
}
