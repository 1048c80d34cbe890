"""Words and sentences: reversing, counting, ciphers, case, spelling and grammar."""

from collections import Counter
from random import Random
from string import ascii_lowercase, ascii_uppercase

from demo.pool.example import Example, Generator, a_or_an, ask, choose_labels, join_words, split_words


TEXT = "text manipulation|string manipulation|text processing"
WORDS = split_words(
    "apple bridge candle dragon engine forest garden harbor island jungle kettle ladder magnet needle orange pepper "
    "quartz rabbit saddle temple umbrella valley window yellow zebra anchor basket copper desert falcon guitar hammer "
    "lantern marble ocean pencil river silver thunder village winter blossom castle diamond feather glacier mirror"
)
SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "a small boat crossed the wide river at dawn",
    "our neighbor plants tomatoes and beans every spring",
    "the library opens at nine and closes at six",
    "she wrote a short letter to her old teacher",
    "heavy rain delayed the evening train to the coast",
    "the children built a tall tower out of wooden blocks",
    "fresh bread and warm soup are waiting on the table",
    "he repaired the clock that his grandfather had made",
    "the museum shows paintings from three different centuries",
]
ANAGRAMS = ["listen silent", "evil live", "stone notes", "night thing", "heart earth", "least steal", "cider cried"]
PALINDROMES = split_words("level radar rotor civic kayak refer madam noon stats tenet")
PLURALS = (
    "child children, mouse mice, tooth teeth, foot feet, goose geese, man men, woman women, ox oxen, leaf leaves, "
    "knife knives, wolf wolves, city cities, baby babies, box boxes, dish dishes, church churches, sheep sheep, "
    "deer deer, hero heroes, potato potatoes, analysis analyses, crisis crises, criterion criteria, half halves"
)
PAST_TENSES = (
    "go went gone, see saw seen, take took taken, write wrote written, drive drove driven, eat ate eaten, "
    "speak spoke spoken, give gave given, begin began begun, sing sang sung, swim swam swum, break broke broken, "
    "choose chose chosen, fly flew flown, know knew known, ride rode ridden, bring brought brought, "
    "teach taught taught, think thought thought, buy bought bought, catch caught caught, find found found, "
    "keep kept kept, leave left left, build built built, draw drew drawn, wear wore worn, freeze froze frozen"
)
OPPOSITES = (
    "hot cold, early late, full empty, heavy light, wide narrow, deep shallow, ancient modern, brave cowardly, "
    "rough smooth, generous stingy, victory defeat, arrive depart, accept reject, expand contract, increase decrease, "
    "noisy quiet, rich poor, strong weak, success failure, young old, open closed, always never, above below"
)
SYNONYMS = (
    "big large, begin start, quick fast, buy purchase, help assist, happy glad, silent quiet, angry furious, "
    "smart clever, end finish, answer reply, strange odd, correct right, gather collect, brave courageous, "
    "enormous huge, close shut, error mistake, choose select, rich wealthy, tired weary, journey trip, gift present"
)


def shift_letters(text: str, shift: int) -> str:
    """Move every letter along the alphabet; leave other characters as they are."""
    lower = ascii_lowercase[shift:] + ascii_lowercase[:shift]
    return text.translate(str.maketrans(ascii_lowercase + ascii_uppercase, lower + lower.upper()))


def pick_entry(rng: Random, table: str) -> list[str]:
    """Draw one comma-separated entry of a table and split it into words."""
    return rng.choice(table.split(", ")).split()


def reverse_word(rng: Random) -> Example:
    """Ask for a word spelled backwards, answered with the bare word."""
    word = rng.choice(WORDS)
    question = rng.choice(
        [f"Reverse the word '{word}'.", f"Spell '{word}' backwards.", f"Reverse this string: {word}"]
    )
    return ask(question, word[::-1], choose_labels(rng, "string reversal|reversal", f"{TEXT}?"))


def sort_words(rng: Random) -> Example:
    """Ask for words in alphabetical order."""
    words = rng.sample(WORDS, rng.randint(4, 7))
    question = f"Sort these words alphabetically: {', '.join(words)}"
    return ask(
        question, ", ".join(sorted(words)), choose_labels(rng, "sorting|alphabetical order", f"{TEXT}?"), steps=2
    )


def sort_by_length(rng: Random) -> Example:
    """Ask to group words by how long they are."""
    words = rng.sample(WORDS, 6)
    lengths = sorted({len(word) for word in words})
    lines = [f"{n} letters: {', '.join(sorted(w for w in words if len(w) == n))}" for n in lengths]
    question = (
        f"Group these words by their number of letters, shortest first, sorted within a group: {', '.join(words)}"
    )
    return ask(question, "\n".join(lines), choose_labels(rng, "sorting", "grouping|classification", TEXT), steps=4)


def count_vowels(rng: Random) -> Example:
    """Ask for the number of vowels in a sentence."""
    sentence = rng.choice(SENTENCES).capitalize()
    start = rng.randint(0, 3)
    phrase = " ".join(sentence.split()[start : start + rng.randint(3, 6)])
    counts = Counter(letter for letter in phrase.lower() if letter in "aeiou")
    listed = ", ".join(f"{letter}: {counts[letter]}" for letter in "aeiou" if counts[letter])
    answer = f"Counting each vowel gives {listed}, so there are {counts.total()} vowels."
    question = f"How many vowels (a, e, i, o, u) are in '{phrase}'?"
    return ask(question, answer, choose_labels(rng, "letter counting|counting", "vowels?", TEXT), steps=3)


def count_letter(rng: Random) -> Example:
    """Ask how often a letter occurs in a word."""
    word = rng.choice([*WORDS, "mississippi", "banana", "bookkeeper", "committee", "assessment", "parallel"])
    letter = rng.choice(word)
    positions = [str(position) for position, other in enumerate(word, start=1) if other == letter]
    noun = "place" if len(positions) == 1 else "places"
    answer = f"The letter '{letter}' stands at {noun} {join_words(positions)}, so it occurs {len(positions)} time(s)."
    question = f"How often does the letter '{letter}' occur in '{word}'?"
    return ask(question, answer, choose_labels(rng, "letter counting|counting", "spelling?"), steps=2)


def count_words(rng: Random) -> Example:
    """Ask for the number of words, answered with the bare number."""
    words = rng.choice(SENTENCES).split()[: rng.randint(4, 9)]
    question = f"Count the words: {' '.join(words)}"
    return ask(question, str(len(words)), choose_labels(rng, "word counting|counting", f"{TEXT}?"))


def compare_anagrams(rng: Random) -> Example:
    """Ask whether two words are anagrams."""
    first, second = rng.choice(ANAGRAMS).split() if rng.random() < 0.3 else rng.sample(WORDS, 2)
    one, other = "".join(sorted(first)), "".join(sorted(second))
    verdict = "Both are the same, so they are anagrams" if one == other else "These differ, so they are not anagrams"
    answer = f"Sorted letters of '{first}': {one}\nSorted letters of '{second}': {other}\n{verdict}."
    labels = choose_labels(rng, "anagram|anagrams", "word games|wordplay", f"{TEXT}?")
    return ask(f"Are '{first}' and '{second}' anagrams of each other?", answer, labels, steps=3)


def decide_palindrome(rng: Random) -> Example:
    """Ask whether a word is a palindrome."""
    word = rng.choice(PALINDROMES if rng.random() < 0.4 else WORDS)
    verdict = "the same, so it is a palindrome" if word == word[::-1] else "different, so it is not a palindrome"
    answer = f"Read backwards, '{word}' becomes '{word[::-1]}'. That is {verdict}."
    labels = choose_labels(rng, "palindrome", "word games|wordplay?", f"{TEXT}?")
    return ask(f"Is '{word}' a palindrome?", answer, labels, steps=2)


def encipher(rng: Random) -> Example:
    """Ask to write a phrase in the Caesar cipher."""
    phrase, shift = " ".join(rng.sample(WORDS, 2)), rng.randint(1, 12)
    first, moved = phrase[0], shift_letters(phrase[0], shift)
    answer = (
        f"Each letter moves {shift} places forward, so '{first}' becomes '{moved}': {shift_letters(phrase, shift)}"
    )
    question = f"Encrypt '{phrase}' with a Caesar cipher and a shift of {shift}."
    return ask(question, answer, choose_labels(rng, "caesar cipher", "cryptography|encryption", f"{TEXT}?"), steps=4)


def decipher(rng: Random) -> Example:
    """Ask to read a phrase in the Caesar cipher."""
    phrase, shift = " ".join(rng.sample(WORDS, 2)), rng.randint(1, 12)
    answer = f"Moving each letter {shift} places back gives: {phrase}"
    question = (
        f"This text was made with a Caesar cipher and a shift of {shift}. Decrypt it: {shift_letters(phrase, shift)}"
    )
    return ask(question, answer, choose_labels(rng, "caesar cipher", "cryptography|decryption", "puzzle?"), steps=4)


def change_case(rng: Random) -> Example:
    """Ask for a phrase in another letter case, answered with the bare text."""
    words = rng.choice(SENTENCES).split()
    start = rng.randint(0, len(words) - 3)
    words = words[start : start + rng.randint(3, 4)]
    name, written = rng.choice(
        [
            ("upper case", " ".join(words).upper()),
            ("title case, every word capitalized", " ".join(words).title()),
            ("snake_case", "_".join(words)),
            ("camelCase", words[0] + "".join(word.capitalize() for word in words[1:])),
            ("kebab-case", "-".join(words)),
        ]
    )
    labels = choose_labels(rng, "case conversion|text formatting", f"{TEXT}?", "naming convention?")
    return ask(f"Write '{' '.join(words)}' in {name}.", written, labels)


def find_longest_word(rng: Random) -> Example:
    """Ask for the longest word of a sentence."""
    sentence = rng.choice(SENTENCES)
    words = sentence.split()
    rng.shuffle(words)
    words = words[: rng.randint(5, 8)]
    longest = max(map(len, words))
    found = sorted({word for word in words if len(word) == longest})
    answer = f"{join_words(found)} ({longest} letters)"
    question = (
        f"What is the longest word in this list (name all, alphabetically, if there are several)? {', '.join(words)}"
    )
    return ask(question, answer, choose_labels(rng, "word length|text analysis", f"{TEXT}?"), steps=2)


def drop_repeats(rng: Random) -> Example:
    """Ask for a list without repeats."""
    words = rng.choices(rng.sample(WORDS, 4), k=7)
    answer = ", ".join(dict.fromkeys(words))
    question = f"Remove the repeated words and keep the order of first appearance: {', '.join(words)}"
    return ask(question, answer, choose_labels(rng, "deduplication|data cleaning", "list processing?", TEXT), steps=2)


def make_acronym(rng: Random) -> Example:
    """Ask for the first letters of a phrase."""
    words = [word.capitalize() for word in rng.sample(WORDS, rng.randint(3, 5))]
    answer = "".join(word[0] for word in words)
    return ask(
        f"Form an acronym from: {' '.join(words)}", answer, choose_labels(rng, "acronym|abbreviation", f"{TEXT}?")
    )


def form_plural(rng: Random) -> Example:
    """Ask for an English plural."""
    one, many = pick_entry(rng, PLURALS)
    question = rng.choice([f"What is the plural of '{one}'?", f"Give the plural form of {one}."])
    answer = f"The plural of '{one}' is '{many}'."
    return ask(question, answer, choose_labels(rng, "plural forms|grammar", "english language|english?"))


def form_past_tense(rng: Random) -> Example:
    """Ask for the principal parts of an irregular verb."""
    verb, past, participle = pick_entry(rng, PAST_TENSES)
    answer = f"{verb}, {past}, {participle}: the simple past is '{past}' and the past participle is '{participle}'."
    question = f"What are the simple past and the past participle of 'to {verb}'?"
    return ask(question, answer, choose_labels(rng, "verb conjugation|grammar", "english language|english"), steps=2)


def name_opposite(rng: Random) -> Example:
    """Ask for an opposite, answered with the bare word."""
    word, opposite = rng.sample(pick_entry(rng, OPPOSITES), 2)
    labels = choose_labels(rng, "antonyms|opposites", "vocabulary|word choice")
    return ask(rng.choice([f"What is the opposite of '{word}'?", f"Antonym of {word}?"]), opposite, labels)


def name_synonym(rng: Random) -> Example:
    """Ask for a word of similar meaning."""
    word, similar = rng.sample(pick_entry(rng, SYNONYMS), 2)
    answer = f"A synonym of '{word}' is '{similar}'."
    labels = choose_labels(rng, "synonyms|similar words", "vocabulary|word choice")
    return ask(
        rng.choice([f"Give a synonym of '{word}'.", f"Name a word that means about the same as '{word}'."]),
        answer,
        labels,
    )


def choose_article(rng: Random) -> Example:
    """Ask for 'a' or 'an' before a noun."""
    word = rng.choice(WORDS)
    sound = "vowel" if word[0] in "aeiou" else "consonant"
    answer = f"It is '{a_or_an(word)}', because '{word}' starts with a {sound} sound."
    labels = choose_labels(rng, "articles|grammar", "english language|english")
    return ask(f"Which is correct: 'a {word}' or 'an {word}'?", answer, labels, steps=2)


GENERATORS: dict[Generator, float] = {
    reverse_word: 4.0,
    sort_words: 2.0,
    sort_by_length: 0.7,
    count_vowels: 1.0,
    count_letter: 1.2,
    count_words: 1.5,
    compare_anagrams: 1.0,
    decide_palindrome: 1.0,
    encipher: 0.8,
    decipher: 0.8,
    change_case: 1.5,
    find_longest_word: 0.8,
    drop_repeats: 0.7,
    make_acronym: 0.8,
    form_plural: 0.8,
    form_past_tense: 0.8,
    name_opposite: 1.0,
    name_synonym: 0.8,
    choose_article: 0.6,
}
