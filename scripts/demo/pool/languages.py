"""Words, numbers and short sentences in a dozen languages."""

from datetime import date
from random import Random

from demo.pool.example import Example, Generator, ask, choose_labels, split_words


ENGLISH = (
    "hello, goodbye, thank you, yes, no, good morning, good night, water, bread, house, book, dog, cat, friend, "
    "red, blue, green"
)
WORDS = {
    "Spanish": "hola, adiós, gracias, sí, no, buenos días, buenas noches, agua, pan, casa, libro, perro, gato, amigo, "
    "rojo, azul, verde",
    "French": "bonjour, au revoir, merci, oui, non, bonjour, bonne nuit, eau, pain, maison, livre, chien, chat, ami, "
    "rouge, bleu, vert",
    "German": "hallo, auf Wiedersehen, danke, ja, nein, guten Morgen, gute Nacht, Wasser, Brot, Haus, Buch, Hund, "
    "Katze, Freund, rot, blau, grün",
    "Italian": "ciao, arrivederci, grazie, sì, no, buongiorno, buonanotte, acqua, pane, casa, libro, cane, gatto, "
    "amico, rosso, blu, verde",
    "Portuguese": "olá, adeus, obrigado, sim, não, bom dia, boa noite, água, pão, casa, livro, cão, gato, amigo, "
    "vermelho, azul, verde",
    "Dutch": "hallo, tot ziens, dank je, ja, nee, goedemorgen, welterusten, water, brood, huis, boek, hond, kat, "
    "vriend, rood, blauw, groen",
    "Swedish": "hej, hej då, tack, ja, nej, god morgon, god natt, vatten, bröd, hus, bok, hund, katt, vän, röd, blå, "
    "grön",
    "Japanese": "こんにちは (konnichiwa), さようなら (sayōnara), ありがとう (arigatō), はい (hai), いいえ (iie), "
    "おはようございます (ohayō gozaimasu), おやすみなさい (oyasuminasai), 水 (mizu), パン (pan), 家 (ie), 本 (hon), "
    "犬 (inu), 猫 (neko), 友達 (tomodachi), 赤 (aka), 青 (ao), 緑 (midori)",
    "Chinese": "你好 (nǐ hǎo), 再见 (zàijiàn), 谢谢 (xièxie), 是 (shì), 不 (bù), 早上好 (zǎoshang hǎo), 晚安 "
    "(wǎn'ān), 水 (shuǐ), 面包 (miànbāo), 房子 (fángzi), 书 (shū), 狗 (gǒu), 猫 (māo), 朋友 (péngyou), 红色 (hóngsè), "
    "蓝色 (lánsè), 绿色 (lǜsè)",
    "Korean": "안녕하세요 (annyeonghaseyo), 안녕히 가세요 (annyeonghi gaseyo), 감사합니다 (gamsahamnida), 네 (ne), "
    "아니요 (aniyo), 좋은 아침 (joeun achim), 안녕히 주무세요 (annyeonghi jumuseyo), 물 (mul), 빵 (ppang), 집 (jip), "
    "책 (chaek), 개 (gae), 고양이 (goyangi), 친구 (chingu), 빨간색 (ppalgansaek), 파란색 (paransaek), "
    "초록색 (choroksaek)",
}
"""Each language's words for those of ENGLISH, in the same order."""
WEEKDAYS = {
    "Spanish": "lunes martes miércoles jueves viernes sábado domingo",
    "French": "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "German": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    "Italian": "lunedì martedì mercoledì giovedì venerdì sabato domenica",
    "Portuguese": "segunda-feira terça-feira quarta-feira quinta-feira sexta-feira sábado domingo",
    "Dutch": "maandag dinsdag woensdag donderdag vrijdag zaterdag zondag",
    "Swedish": "måndag tisdag onsdag torsdag fredag lördag söndag",
    "Japanese": "月曜日 火曜日 水曜日 木曜日 金曜日 土曜日 日曜日",
    "Chinese": "星期一 星期二 星期三 星期四 星期五 星期六 星期日",
    "Korean": "월요일 화요일 수요일 목요일 금요일 토요일 일요일",
}
MONTHS = {
    "Spanish": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "French": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "German": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "Italian": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "Portuguese": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
}
NUMBERS = {
    "Spanish": "uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete dieciocho diecinueve veinte",
    "French": "un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept "
    "dix-huit dix-neuf vingt",
    "German": "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
    "siebzehn achtzehn neunzehn zwanzig",
    "Italian": "uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici "
    "sedici diciassette diciotto diciannove venti",
    "Portuguese": "um dois três quatro cinco seis sete oito nove dez onze doze treze catorze quinze",
    "Dutch": "een twee drie vier vijf zes zeven acht negen tien elf twaalf dertien veertien vijftien zestien "
    "zeventien achttien negentien twintig",
    "Swedish": "ett två tre fyra fem sex sju åtta nio tio elva tolv tretton fjorton femton sexton sjutton arton "
    "nitton tjugo",
}
SUMS = {
    "Spanish": ("¿Cuánto es {a} más {b}?", "{a} más {b} es igual a {c}."),
    "French": ("Combien font {a} plus {b} ?", "{a} plus {b} font {c}."),
    "German": ("Was ist {a} plus {b}?", "{a} plus {b} ist {c}."),
    "Italian": ("Quanto fa {a} più {b}?", "{a} più {b} fa {c}."),
    "Portuguese": ("Quanto é {a} mais {b}?", "{a} mais {b} é igual a {c}."),
    "Dutch": ("Hoeveel is {a} plus {b}?", "{a} plus {b} is {c}."),
    "Swedish": ("Vad är {a} plus {b}?", "{a} plus {b} är {c}."),
}
SELVES = {
    "Spanish": ("Me llamo {name}. Vivo en {city}. Tengo {age} años.", "Madrid, Lima, Quito, Valencia"),
    "French": ("Je m'appelle {name}. J'habite à {city}. J'ai {age} ans.", "Paris, Lyon, Nice, Toulouse"),
    "German": ("Ich heiße {name}. Ich wohne in {city}. Ich bin {age} Jahre alt.", "Berlin, Hamburg, Dresden, Leipzig"),
    "Italian": ("Mi chiamo {name}. Abito a {city}. Ho {age} anni.", "Pisa, Bologna, Verona, Palermo"),
    "Portuguese": ("Meu nome é {name}. Moro em {city}. Tenho {age} anos.", "Braga, Coimbra, Salvador, Recife"),
    "Dutch": ("Ik heet {name}. Ik woon in {city}. Ik ben {age} jaar oud.", "Amsterdam, Utrecht, Leiden, Delft"),
    "Swedish": ("Jag heter {name}. Jag bor i {city}. Jag är {age} år gammal.", "Stockholm, Uppsala, Lund, Kalmar"),
}
"""How to introduce oneself, and cities whose names are the same in English."""
CAPITALS = {
    "Spanish": (
        "¿Cuál es la capital de {}?",
        "La capital de {} es {}.",
        "Francia París, Italia Roma, Alemania Berlín, Portugal Lisboa, "
        "Colombia Bogotá, Ecuador Quito, Noruega Oslo, Japón Tokio, Cuba La_Habana, Argentina Buenos_Aires",
    ),
    "German": (
        "Was ist die Hauptstadt von {}?",
        "Die Hauptstadt von {} ist {}.",
        "Frankreich Paris, Italien Rom, Spanien Madrid, "
        "Portugal Lissabon, Österreich Wien, Polen Warschau, Dänemark Kopenhagen, Schweden Stockholm",
    ),
    "French": (
        "Quelle est la capitale {} ?",
        "La capitale {} est {}.",
        "de_la_France Paris, de_l'Italie Rome, de_l'Allemagne Berlin, "
        "de_l'Espagne Madrid, du_Portugal Lisbonne, de_la_Pologne Varsovie, du_Japon Tokyo",
    ),
    "Italian": (
        "Qual è la capitale {}?",
        "La capitale {} è {}.",
        "della_Francia Parigi, dell'Italia Roma, della_Germania Berlino, "
        "della_Spagna Madrid, del_Portogallo Lisbona, della_Polonia Varsavia, del_Giappone Tokyo",
    ),
}
"""A question, its answer and the names that fill them; an underscore stands for a space."""
ONES = split_words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = split_words("- - twenty thirty forty fifty sixty seventy eighty ninety")
GERMAN_ONES = split_words("- ein zwei drei vier fünf sechs sieben acht neun")
GERMAN_TENS = split_words("- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig")
HAN_DIGITS = "零一二三四五六七八九"


def english_number(number: int) -> str:
    """Write a number from 0 to 9999 in English words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    count, rest = divmod(number, size)
    return f"{english_number(count)} {name}" + (f" {english_number(rest)}" if rest else "")


def german_number(number: int) -> str:
    """Write a number from 21 to 99 in German words."""
    tens, ones = divmod(number, 10)
    return (f"{GERMAN_ONES[ones]}und" if ones else "") + GERMAN_TENS[tens]


def han_number(number: int) -> str:
    """Write a number from 11 to 99 in the characters that Chinese and Japanese share."""
    tens, ones = divmod(number, 10)
    return (HAN_DIGITS[tens] if tens > 1 else "") + "十" + (HAN_DIGITS[ones] if ones else "")


def language_label(language: str) -> str:
    """Return the labels of a language, as an argument of `choose_labels`."""
    return f"{language.lower()} language|{language.lower()}"


def translate_word(rng: Random) -> Example:
    """Ask for a word in another language, answered with the bare word."""
    language = rng.choice(list(WORDS))
    english, foreign = rng.choice(list(zip(ENGLISH.split(", "), WORDS[language].split(", "), strict=True)))
    question = rng.choice(
        [
            f"How do you say '{english}' in {language}?",
            f"Translate '{english}' into {language}.",
            f"What is the {language} word or phrase for '{english}'?",
        ]
    )
    labels = choose_labels(rng, "translation|language translation", language_label(language), "vocabulary?")
    return ask(question, foreign, labels)


def recognise_language(rng: Random) -> Example:
    """Ask which language a few words are in and what they mean."""
    language = rng.choice(list(WORDS))
    pairs = list(zip(ENGLISH.split(", "), WORDS[language].split(", "), strict=True))
    chosen = rng.sample([pairs[index] for index in (2, 5, 7, 8, 10, 11, 13, 14, 16)], 3)
    shown = ", ".join(foreign.split(" (")[0] for _, foreign in chosen)
    meanings = "\n".join(f"- {foreign} means '{english}'" for english, foreign in chosen)
    answer = f"The words are {language}.\n{meanings}"
    question = f"Which language are these words, and what do they mean in English? {shown}"
    labels = choose_labels(rng, "language identification|language detection", "translation", language_label(language))
    return ask(question, answer, labels, steps=4)


def compare_languages(rng: Random) -> Example:
    """Ask for one word in three languages as a table."""
    index, english = rng.choice(list(enumerate(ENGLISH.split(", "))))
    languages = rng.sample(list(WORDS), 3)
    lines = [f"| {language} | {WORDS[language].split(', ')[index]} |" for language in languages]
    answer = "\n".join(["| Language | Translation |", "| --- | --- |", *lines])
    question = f"Translate '{english}' into {languages[0]}, {languages[1]} and {languages[2]}, as a Markdown table."
    labels = choose_labels(rng, "translation|language translation", "multilingual", "table formatting|markdown?")
    return ask(question, answer, labels, steps=4)


def name_foreign_weekday(rng: Random) -> Example:
    """Ask for a weekday in another language, or the day after it."""
    language, index = rng.choice(list(WEEKDAYS)), rng.randrange(7)
    days, english = WEEKDAYS[language].split(), f"{date(2024, 1, 1 + index):%A}"
    labels = choose_labels(rng, language_label(language), "weekdays|days of the week", "translation?")
    if rng.random() < 0.5:
        return ask(f"What is {english} called in {language}?", days[index], labels)
    following = days[(index + 1) % 7]
    answer = f"The day after {days[index]} ({english}) is {following}."
    return ask(f"In {language}, which day comes after {days[index]}? Answer in {language}.", answer, labels, steps=2)


def name_foreign_month(rng: Random) -> Example:
    """Ask for a month in another language, answered with the bare name."""
    language, index = rng.choice(list(MONTHS)), rng.randrange(12)
    english, name = f"{date(2024, index + 1, 1):%B}", MONTHS[language].split()[index]
    labels = choose_labels(rng, language_label(language), "months", "translation?")
    return ask(f"What is the month {english} called in {language}?", name, labels)


def count_in_language(rng: Random) -> Example:
    """Ask to count a few steps in another language."""
    language = rng.choice(list(NUMBERS))
    names = NUMBERS[language].split()
    first = rng.randint(1, len(names) - 5)
    last = first + rng.randint(2, 5)
    answer = ", ".join(names[first - 1 : last])
    labels = choose_labels(rng, language_label(language), "counting|number words", "language learning?")
    return ask(f"Count from {first} to {last} in {language}.", answer, labels, steps=2)


def name_foreign_number(rng: Random) -> Example:
    """Ask for one number in another language."""
    language = rng.choice([*NUMBERS, "German", "Chinese", "Japanese"])
    if language in ("Chinese", "Japanese"):
        number = rng.randint(11, 99)
        name = han_number(number)
    else:
        names = NUMBERS[language].split()
        number = rng.randint(21, 99) if language == "German" and rng.random() < 0.7 else rng.randint(1, len(names))
        name = german_number(number) if number > 20 else names[number - 1]
    labels = choose_labels(rng, language_label(language), "number words|numbers", "translation?")
    return ask(f"Write the number {number} as a word in {language}.", name, labels)


def spell_number(rng: Random) -> Example:
    """Ask for a number in English words, or vice versa."""
    number = rng.randint(21, 9999)
    labels = choose_labels(rng, "number words|numbers", "spelling", "english language|english?")
    if rng.random() < 0.6:
        return ask(f"Write {number} in English words.", english_number(number), labels)
    return ask(f"Write '{english_number(number)}' in digits.", str(number), labels)


def add_in_language(rng: Random) -> Example:
    """Ask for a sum in another language, in words."""
    language = rng.choice(list(SUMS))
    names = NUMBERS[language].split()
    a = rng.randint(2, len(names) - 2)
    b = rng.randint(2, len(names) - a)
    question, answer = SUMS[language]
    written = {"a": names[a - 1], "b": names[b - 1], "c": names[a + b - 1]}
    reply = answer.format(**written)
    labels = choose_labels(rng, language_label(language), "arithmetic", "number words?", "multilingual?")
    return ask(question.format(**written), reply[0].upper() + reply[1:], labels, steps=3)


def introduce_oneself(rng: Random) -> Example:
    """Ask to translate a short introduction, into the language or out of it."""
    language = rng.choice(list(SELVES))
    sentence, cities = SELVES[language]
    values = {
        "name": rng.choice(["Ana", "Lena", "Nina", "Hugo", "Ivo", "Sara"]),
        "city": rng.choice(cities.split(", ")),
    }
    age = rng.randint(18, 80)
    foreign = sentence.format(**values, age=age)
    english = "My name is {name}. I live in {city}. I am {age} years old.".format(**values, age=age)
    labels = choose_labels(rng, "translation|language translation", language_label(language), "self-introduction?")
    if rng.random() < 0.5:
        return ask(f"Translate into {language}: {english}", foreign, labels, steps=3)
    return ask(f"Translate from {language} into English: {foreign}", english, labels, steps=3)


def ask_capital_abroad(rng: Random) -> Example:
    """Ask for a capital in another language, answered in that language."""
    language = rng.choice(list(CAPITALS))
    question, answer, table = CAPITALS[language]
    country, capital = (name.replace("_", " ") for name in rng.choice(table.split(", ")).split())
    labels = choose_labels(rng, language_label(language), "geography", "capital cities|capitals?")
    return ask(question.format(country), answer.format(country, capital), labels, steps=2)


GENERATORS: dict[Generator, float] = {
    translate_word: 4.0,
    recognise_language: 1.5,
    compare_languages: 1.2,
    name_foreign_weekday: 1.2,
    name_foreign_month: 0.7,
    count_in_language: 1.0,
    name_foreign_number: 1.5,
    spell_number: 1.5,
    add_in_language: 1.5,
    introduce_oneself: 1.5,
    ask_capital_abroad: 0.8,
}
