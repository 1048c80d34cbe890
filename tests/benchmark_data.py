"""Small benchmarks in the published formats."""


def write_punkt(folder):
    """Write NLTK's model of sentences with nothing learnt, and return its data folder."""
    model = folder / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    model.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (model / name).touch()
    return folder / "nltk_data"
