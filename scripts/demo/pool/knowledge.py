"""Facts of geography, chemistry and the sky, and short explanations of everyday things."""

from random import Random

from demo.pool.example import Example, Generator, ask, choose_labels, read_facts, split_words


COUNTRIES = (
    "France Paris Europe, Germany Berlin Europe, Italy Rome Europe, Spain Madrid Europe, Portugal Lisbon Europe, "
    "Poland Warsaw Europe, Austria Vienna Europe, Greece Athens Europe, Norway Oslo Europe, Sweden Stockholm Europe, "
    "Finland Helsinki Europe, Denmark Copenhagen Europe, Ireland Dublin Europe, Hungary Budapest Europe, "
    "Romania Bucharest Europe, Bulgaria Sofia Europe, Croatia Zagreb Europe, Iceland Reykjavik Europe, "
    "Belgium Brussels Europe, Estonia Tallinn Europe, Latvia Riga Europe, Lithuania Vilnius Europe, "
    "Japan Tokyo Asia, China Beijing Asia, India New_Delhi Asia, Thailand Bangkok Asia, Vietnam Hanoi Asia, "
    "South_Korea Seoul Asia, Mongolia Ulaanbaatar Asia, Nepal Kathmandu Asia, Pakistan Islamabad Asia, "
    "Bangladesh Dhaka Asia, Iran Tehran Asia, Iraq Baghdad Asia, Jordan Amman Asia, Lebanon Beirut Asia, "
    "Egypt Cairo Africa, Kenya Nairobi Africa, Ghana Accra Africa, Nigeria Abuja Africa, Senegal Dakar Africa, "
    "Morocco Rabat Africa, Tunisia Tunis Africa, Algeria Algiers Africa, Ethiopia Addis_Ababa Africa, "
    "Uganda Kampala Africa, Rwanda Kigali Africa, Zambia Lusaka Africa, Angola Luanda Africa, "
    "Canada Ottawa North_America, Mexico Mexico_City North_America, Cuba Havana North_America, "
    "Jamaica Kingston North_America, Panama Panama_City North_America, Peru Lima South_America, "
    "Chile Santiago South_America, Argentina Buenos_Aires South_America, Brazil Brasília South_America, "
    "Colombia Bogotá South_America, Ecuador Quito South_America, Uruguay Montevideo South_America, "
    "Paraguay Asunción South_America, Venezuela Caracas South_America, Australia Canberra Oceania, "
    "New_Zealand Wellington Oceania, Fiji Suva Oceania"
)
"""Country, capital and continent; an underscore stands for a space."""
CURRENCIES = (
    "Japan yen, India rupee, China yuan, Poland złoty, Sweden krona, Norway krone, Denmark krone, Hungary forint, "
    "Mexico peso, Brazil real, South_Korea won, Thailand baht, France euro, Germany euro, Canada dollar, "
    "Australia dollar, Egypt pound, Peru sol, South_Africa rand, Ghana cedi, Nigeria naira, Israel shekel"
)
ELEMENTS = (
    "hydrogen H 1, helium He 2, lithium Li 3, beryllium Be 4, boron B 5, carbon C 6, nitrogen N 7, oxygen O 8, "
    "fluorine F 9, neon Ne 10, sodium Na 11, magnesium Mg 12, aluminum Al 13, silicon Si 14, phosphorus P 15, "
    "sulfur S 16, chlorine Cl 17, argon Ar 18, potassium K 19, calcium Ca 20, titanium Ti 22, chromium Cr 24, "
    "manganese Mn 25, iron Fe 26, cobalt Co 27, nickel Ni 28, copper Cu 29, zinc Zn 30, bromine Br 35, krypton Kr 36, "
    "silver Ag 47, tin Sn 50, iodine I 53, xenon Xe 54, tungsten W 74, platinum Pt 78, gold Au 79, mercury Hg 80, "
    "lead Pb 82, uranium U 92"
)
MOLECULES = {
    "water": {"H": 2, "O": 1},
    "carbon dioxide": {"C": 1, "O": 2},
    "methane": {"C": 1, "H": 4},
    "ammonia": {"N": 1, "H": 3},
    "glucose": {"C": 6, "H": 12, "O": 6},
    "ethanol": {"C": 2, "H": 6, "O": 1},
    "sodium chloride": {"Na": 1, "Cl": 1},
    "sulfuric acid": {"H": 2, "S": 1, "O": 4},
    "calcium carbonate": {"Ca": 1, "C": 1, "O": 3},
    "hydrogen peroxide": {"H": 2, "O": 2},
}
MASSES = {"H": 1, "C": 12, "N": 14, "O": 16, "Na": 23, "S": 32, "Cl": 35.5, "Ca": 40}
"""Rounded atomic masses, as school tables give them."""
PLANETS = split_words("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")
MANNERS = [
    ("Explain {topic}.", "", "explanation|simple explanation"),
    ("In simple words, tell me {topic}.", "", "simple explanation|explanation"),
    (
        "Please explain {topic} to a class of twelve-year-olds.",
        "You are a patient science teacher.",
        "teaching|education",
    ),
    ("Could you tell me {topic}? Keep it short.", "", "summary|explanation"),
    ("I would like to know {topic}.", "Answer in two to four sentences.", "explanation|general knowledge"),
]
EXPLANATIONS = read_facts("explanations")
TIPS = read_facts("tips")


def split_names(entry: str) -> list[str]:
    """Split an entry of a table into its names."""
    return [name.replace("_", " ") for name in entry.split()]


def pick_entry(rng: Random, table: str) -> list[str]:
    """Draw one comma-separated entry of a table and split it into names."""
    return split_names(rng.choice(table.split(", ")))


def name_capital(rng: Random) -> Example:
    """Ask for a country's capital, answered with the bare name."""
    country, capital, _ = pick_entry(rng, COUNTRIES)
    question = rng.choice(
        [f"What is the capital of {country}?", f"Capital of {country}?", f"Name the capital city of {country}."]
    )
    return ask(question, capital, choose_labels(rng, "geography", "capital cities|capitals", "general knowledge?"))


def locate_capital(rng: Random) -> Example:
    """Ask for the country and continent of a capital."""
    country, capital, continent = pick_entry(rng, COUNTRIES)
    answer = f"{capital} is the capital of {country}, which is in {continent}."
    question = f"Of which country is {capital} the capital, and on which continent is that country?"
    labels = choose_labels(rng, "geography", "capital cities|capitals?", "continents?")
    return ask(question, answer, labels, steps=2)


def group_countries(rng: Random) -> Example:
    """Ask to sort countries by continent."""
    entries = [split_names(entry) for entry in rng.sample(COUNTRIES.split(", "), 6)]
    groups: dict[str, list[str]] = {}
    for country, _, continent in sorted(entries):
        groups.setdefault(continent, []).append(country)
    lines = [f"- {continent}: {', '.join(groups[continent])}" for continent in sorted(groups)]
    question = f"Group these countries by continent: {', '.join(country for country, _, _ in entries)}"
    labels = choose_labels(rng, "geography", "classification|categorization", "continents?")
    return ask(question, "\n".join(lines), labels, steps=5)


def name_currency(rng: Random) -> Example:
    """Ask for a country's currency, answered with the bare name."""
    country, currency = pick_entry(rng, CURRENCIES)
    labels = choose_labels(rng, "geography|economics", "currency|currencies")
    return ask(f"What is the currency of {country} called?", currency, labels)


def name_element(rng: Random) -> Example:
    """Ask for symbol, name or number of a chemical element."""
    name, symbol, number = pick_entry(rng, ELEMENTS)
    question, answer = rng.choice(
        [
            (f"What is the chemical symbol of {name}?", symbol),
            (f"Which element has the symbol {symbol}?", name),
            (f"Which element has the atomic number {number}?", f"It is {name} ({symbol})."),
            (
                f"How many protons does an atom of {name} have?",
                f"{number}, because the atomic number of {name} is {number}.",
            ),
        ]
    )
    return ask(question, answer, choose_labels(rng, "chemistry", "chemical elements|periodic table", "science?"))


def weigh_molecule(rng: Random) -> Example:
    """Ask for a molar mass from rounded atomic masses."""
    name, atoms = rng.choice(list(MOLECULES.items()))
    formula = "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in atoms.items())
    moles = rng.randint(1, 5)
    mass = sum(MASSES[symbol] * count for symbol, count in atoms.items())
    parts = " + ".join(f"{count} * {MASSES[symbol]:g}" for symbol, count in atoms.items())
    answer = (
        f"The formula is {formula}, so one mole weighs {parts} = {mass:g} g.\n"
        f"{moles} mol weigh {moles} * {mass:g} = {moles * mass:g} g."
    )
    given = ", ".join(f"{symbol} = {MASSES[symbol]:g}" for symbol in atoms)
    question = f"What is the mass of {moles} mol of {name}? Use the molar masses in g/mol {given}."
    return ask(question, answer, choose_labels(rng, "chemistry", "molar mass|stoichiometry", "calculation?"), steps=5)


def order_planets(rng: Random) -> Example:
    """Ask about the order of the planets."""
    index = rng.randrange(8)
    planet = PLANETS[index]
    inner, outer = PLANETS[max(index - 1, 0)], PLANETS[min(index + 1, 7)]
    question, answer = rng.choice(
        [
            (f"Which planet is number {index + 1} from the sun?", planet),
            (
                f"Which planets are closer to the sun than {planet}?",
                ", ".join(PLANETS[:index]) or "None, it is the closest.",
            ),
            (
                f"Is {inner} or {outer} closer to the sun?",
                f"{inner} is closer, because the order is {', '.join(PLANETS)}.",
            ),
        ]
    )
    return ask(question, answer, choose_labels(rng, "astronomy", "planets|solar system", "science?"))


def explain_something(rng: Random) -> Example:
    """Ask for a short explanation, in different manners and sometimes with a system message."""
    fact, (question, system, label) = rng.choice(EXPLANATIONS), rng.choice(MANNERS)
    labels = choose_labels(rng, label, *fact["labels"])
    return ask(question.format(topic=fact["topic"]), fact["answer"], labels, steps=4, system=system)


def give_tips(rng: Random) -> Example:
    """Ask for a few tips in a given form."""
    fact = rng.choice(TIPS)
    goal, tips = fact["goal"], rng.sample(fact["tips"], 3)
    form, lines = rng.choice(
        [
            ("as a numbered list", [f"{number}. {tip.capitalize()}." for number, tip in enumerate(tips, start=1)]),
            ("as bullet points", [f"- {tip.capitalize()}." for tip in tips]),
            ("in one sentence", [f"To {goal}, {tips[0]}, {tips[1]} and {tips[2]}."]),
        ]
    )
    labels = choose_labels(rng, "advice|tips", "list creation|formatting?", "self-improvement|lifestyle")
    return ask(f"Give me three tips to {goal}, {form}.", "\n".join(lines), labels, steps=3)


GENERATORS: dict[Generator, float] = {
    name_capital: 3.0,
    locate_capital: 1.2,
    group_countries: 1.0,
    name_currency: 0.6,
    name_element: 2.0,
    weigh_molecule: 0.8,
    order_planets: 0.8,
    explain_something: 2.0,
    give_tips: 1.2,
}
