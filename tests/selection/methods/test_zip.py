"""ZIP chooses the rows that the published algorithm does, which recompresses the whole list for every candidate."""

import functools
import os
import random
import signal
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_selector.errors import ArgumentError, PoolError
from mig_selector.selection.budgets import choose_for_budgets
from mig_selector.selection.method import Candidates
from mig_selector.selection.methods.zip import CompressedList, least_redundant
from mig_selector.selection.registry import load_method


def choose(rows, budget, k1, k2, k3, on_progress=lambda count: None):
    pool = Candidates(len(rows), records=lambda: iter(rows))
    return least_redundant(pool, budget, zip_k1=k1, zip_k2=k2, zip_k3=k3, on_progress=on_progress)


def naive_ratio(rows):
    text = str(rows).encode()
    return len(text) / len(zlib.compress(text, 9))


def naive_zip(rows, budget, k1, k2, k3, *, stage_2_ties=(0, 1), stage_3_ties=(0, 1, 2)):
    """methods.md 2 as it stands.

    Args:
        stage_2_ties: Equal ratios go by these of (ratio by which a row became a candidate, row index).
        stage_3_ties: Likewise of (ratio of stage 2, ratio by which it became a candidate there, row index).
    """

    def ratio(indices):
        return np.float32(naive_ratio([rows[index] for index in indices]))

    state = [ratio([index]) for index in range(len(rows))]
    chosen, gains = [], []
    while len(chosen) < budget:
        candidates = sorted(range(len(rows)), key=lambda index: (state[index], index))[:k1]
        first = {index: state[index] for index in candidates}
        for index in candidates:
            state[index] = ratio([*chosen, index])
        second = {index: state[index] for index in candidates}
        ties = {index: (first[index], index) for index in candidates}
        window = sorted(candidates, key=lambda index: (second[index], *(ties[index][tie] for tie in stage_2_ties)))[
            :k2
        ]
        for index in window:
            state[index] = np.float32(1e6)
        ties = {index: (second[index], first[index], index) for index in window}
        picked = []
        for _ in range(k3):
            ratios = {index: ratio([*picked, index]) for index in window if index not in picked}
            best = min(ratios, key=lambda index: (ratios[index], *(ties[index][tie] for tie in stage_3_ties)))
            picked.append(best)
            gains.append(float(ratios[best]))
        chosen += picked
    return chosen[:budget], gains[:budget]


def rows_needed(budget, k1, k2, k3):
    return max(2 * budget, (budget - 1) // k3 * k2) + k1


TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "the same words", "it's", '"quoted"', "both ' and \"", "line\nbreak\t\\", "数据 Größe 🙂"]
    ),
    st.text(max_size=40),
    st.text("ab '\"", max_size=200),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def cases(draw):
    k3 = draw(st.integers(1, 3))
    k2 = draw(st.integers(k3, 6))
    k1 = draw(st.integers(k2, 9))
    budget = draw(st.integers(1, 7))
    count = rows_needed(budget, k1, k2, k3) + draw(st.integers(0, 5))
    kinds = draw(st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), min_size=1, max_size=8))
    rows = draw(st.lists(st.sampled_from(kinds), min_size=count, max_size=count))
    return rows, budget, k1, k2, k3


@settings(max_examples=70, deadline=None)
@given(cases())
def test_rows_and_ratios_are_those_of_the_published_algorithm(case):
    selection = choose(*case)
    expected, gains = naive_zip(*case)
    assert selection.rows.tolist() == expected
    assert selection.gains.tolist() == gains


def letters(seed, count=120):
    """Rows of a few letters: their compressed sizes are small whole numbers, so that many ratios are equal."""
    rng = random.Random(seed)
    return [{"t": "".join(rng.choices("ab", k=rng.randint(4, 9)))} for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
def test_equal_ratios_go_by_the_order_of_the_candidates(seed):
    rows = letters(seed)
    selection = choose(rows, 24, 40, 12, 6)
    expected, gains = naive_zip(rows, 24, 40, 12, 6)
    assert selection.rows.tolist() == expected
    assert selection.gains.tolist() == gains


@pytest.mark.parametrize(
    "ties",
    [
        {"stage_2_ties": (1,)},
        {"stage_3_ties": (2,)},
        {"stage_3_ties": (0, 2)},
        {"stage_3_ties": (1, 2)},
    ],
)
def test_those_pools_are_chosen_from_otherwise_in_any_simpler_order(ties):
    pools = [letters(seed) for seed in range(8)]
    assert any(naive_zip(rows, 24, 40, 12, 6, **ties) != naive_zip(rows, 24, 40, 12, 6) for rows in pools)


def choose_within(rows, tokens, budget, *ks):
    spent = []
    pool = Candidates(len(rows), records=lambda: iter(rows), tokens=tokens)
    settings = dict(zip(("zip_k1", "zip_k2", "zip_k3"), ks, strict=True))
    [selection], _ = choose_for_budgets(load_method("zip"), pool, [budget], settings, "error", spent.append)
    assert sum(spent) == tokens[selection.rows].sum()
    return selection.rows.tolist()


@pytest.mark.parametrize("share", [0.02, 0.2, 0.45])
def test_of_a_budget_of_tokens_rows_that_no_longer_fit_are_passed_over(share):
    rows, ks = letters(1), (20, 8, 4)
    tokens = np.random.default_rng(1).integers(5, 200, len(rows))
    tokens[0] = 1  # so that the budget is never so spent that no row of the pool would fit
    budget = int(share * tokens.sum())
    expected = []
    for row in naive_zip(rows, 52, *ks)[0]:  # after 13 rounds fewer than 20 rows are left
        if tokens[[*expected, row]].sum() <= budget:
            expected.append(row)
    assert choose_within(rows, tokens, budget, *ks) == expected


def test_a_pool_that_does_not_last_for_a_budget_of_tokens_is_an_error():
    message = "mig_num_tokens: {} tokens are asked for, but zip chooses only {} of {} rows, with {} tokens; then fewer"
    with pytest.raises(ArgumentError, match=message.format(1_000, 52, 120, 520)):
        choose_within(letters(1), np.full(120, 10), 1_000, 20, 8, 4)
    with pytest.raises(ArgumentError, match=message.format(50, 0, 9, 0)):
        choose_within(letters(1, 9), np.full(9, 10), 50, 20, 8, 4)


def realistic_rows(count, num_words, seed):
    """Rows of 1.5 KB on average, of more or less varied words, some nearly the same as the one before."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij é'\"\n", k=rng.randint(2, 9))) for _ in range(num_words)]
    rows = []
    for index in range(count):
        text = " ".join(rng.choices(words, k=rng.randint(20, 480)))
        if rows and rng.random() < 0.2:
            text = rows[-1]["dialogs"][0]["content"]
        rows.append(
            {"dialogs": [{"role": "user", "content": text}], "_id": f"row-{index // 2}", "score": index % 3 / 2}
        )
    return rows


@pytest.mark.parametrize(("num_words", "seed"), [(30, 0), (3_000, 1)])
def test_it_is_so_when_the_chosen_rows_fill_many_windows_of_deflate(num_words, seed):
    rows = realistic_rows(180, num_words, seed)
    selection = choose(rows, 70, 30, 14, 7)
    expected, gains = naive_zip(rows, 70, 30, 14, 7)
    assert sum(len(str(rows[index])) for index in expected) > 2 * 32_768
    assert selection.rows.tolist() == expected
    assert selection.gains.tolist() == gains


@pytest.mark.parametrize("num_words", [4, 100, 5_000])
def test_ratios_of_a_growing_list_are_those_of_compressing_it_whole(num_words):
    rng = random.Random(num_words)
    rows, compressed = realistic_rows(90, num_words, num_words), CompressedList()
    for place, row in enumerate(rows):
        if rng.random() < 0.5:
            other = rng.choice(rows)
            assert compressed.ratio_with(str(other).encode()) == naive_ratio([*rows[:place], other])
        compressed.append(str(row).encode())


def test_a_list_that_ends_where_zlib_moves_its_window_is_compressed_as_a_whole():
    # 12 letters come again as far back as deflate can look (32,506 bytes), and end a list of 65,535 bytes: one more
    # byte, and zlib would not have to wait for input just there.
    marked, plain = "abcdefghijkl", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    for seed in range(20):
        rng = random.Random(seed)
        letters = rng.choices(plain, k=65_535 - len("[{'t': '") - len("'}, "))
        for place in (32_768, 32_768 + 32_506):
            start = place - len("[{'t': '")
            letters[start : start + len(marked)] = marked
        rows = [{"t": "".join(letters)}, {"t": "".join(rng.choices(plain, k=300))}]
        compressed = CompressedList()
        compressed.append(str(rows[0]).encode())
        assert compressed.ratio_with(str(rows[1]).encode()) == naive_ratio(rows)


def test_equal_rows_go_by_index_and_rows_taken_out_never_come_back():
    # Alone they are all equal. Rounds 1 and 2 take 0, 1 and 2, 3 out; 2 to 5 are measured with row 0 and rise, so the
    # untouched 6 to 9 are lowest in round 3; 6 and 7 go.
    assert choose([{"text": "the same text, the same text"}] * 12, 3, 4, 2, 1).rows.tolist() == [0, 2, 6]


def test_a_selection_begins_with_every_smaller_selection():
    rows = realistic_rows(120, 200, 5)
    whole = choose(rows, 40, 20, 8, 4)
    for budget in (1, 4, 7, 30):
        part = choose(rows, budget, 20, 8, 4)
        assert part.rows.tolist() == whole.rows[:budget].tolist()
        assert part.gains.tolist() == whole.gains[:budget].tolist()


@pytest.mark.parametrize("cores", [1, 2, 7])
def test_the_number_of_cores_changes_nothing(monkeypatch, cores):
    rows = realistic_rows(150, 200, 6)
    expected, gains = naive_zip(rows, 20, 60, 20, 10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: set(range(cores)))
    selection = choose(rows, 20, 60, 20, 10)
    assert (selection.rows.tolist(), selection.gains.tolist()) == (expected, gains)


def test_half_a_surrogate_pair_is_compressed_as_python_writes_it():
    rows = [{"text": f"{index} \ud83d {chr(0xDC00 + index)}" * (index + 1)} for index in range(9)]
    assert choose(rows, 2, 4, 3, 1).rows.tolist() == naive_zip(rows, 2, 4, 3, 1)[0]


def test_every_choice_is_reported():
    seen = []
    choose([{"n": index} for index in range(30)], 7, 10, 4, 3, seen.append)
    assert seen == [1] * 7


def test_an_interrupt_ends_it_at_once(monkeypatch):
    compressions = []

    def compress_slowly(self, text):
        compressions.append(text)
        if len(compressions) == 100:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.001)
        return 1.0

    monkeypatch.setattr(CompressedList, "ratio_with", compress_slowly)
    with pytest.raises(KeyboardInterrupt):
        choose([{"n": index} for index in range(20_000)], 5, 10, 2, 1)
    assert len(compressions) < 5_000


def count_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_neither_threads_nor_files_are_left_when_it_is_interrupted_between_choices(tmp_path, monkeypatch):
    def interrupt(count):
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads, files = threading.active_count(), count_open_files()
    with pytest.raises(KeyboardInterrupt):
        choose([{"n": index} for index in range(30)], 5, 10, 2, 1, interrupt)
    assert threading.active_count() == threads
    assert count_open_files() == files
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_rows", "budget", "ks", "needed"),
    [(29, 10, (10, 2, 1), 30), (99, 10, (10, 10, 1), 100), (16, 3, (11, 2, 2), 17), (13, 5, (4, 4, 4), 14)],
)
def test_a_pool_too_small_for_the_settings_is_refused_and_one_row_more_is_enough(num_rows, budget, ks, needed):
    rows = [{"n": index} for index in range(needed)]
    message = (
        f"mig_num_samples: to choose {budget} rows with mig_zip_k1 {ks[0]}, .* a pool of {needed} rows, but this one "
        f"has {num_rows} .* choose fewer, or lower mig_zip_k1"
    )
    with pytest.raises(ArgumentError, match=message):
        choose(rows[:num_rows], budget, *ks)
    assert len(set(choose(rows, budget, *ks).rows.tolist())) == budget


@pytest.mark.parametrize("ks", [(10, 11, 1), (10, 4, 5), (10, 4, 0), (0, 0, 0), (4, 2, -1)])
def test_settings_that_contradict_each_other_are_refused(ks):
    with pytest.raises(ArgumentError, match=f"{ks[0]}, {ks[1]}, {ks[2]} are not .*mig_zip_k1 >= mig_zip_k2 >= mig_z"):
        choose([{"n": index} for index in range(90)], 5, *ks)


def test_a_full_disk_is_told_by_the_folder(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/some/folder")
    monkeypatch.setattr(tempfile, "TemporaryFile", functools.partial(Path("/dev/full").open, "r+b", buffering=1024))
    with pytest.raises(PoolError, match=r"/some/folder: the texts .* \(No space left on device\).* TMPDIR"):
        choose([{"n": "x" * index} for index in range(90)], 5, 10, 2, 1)


def test_a_pool_file_that_cannot_be_read_is_not_taken_for_a_full_disk():
    def records():
        raise PermissionError(13, "Permission denied", "pool.jsonl")
        yield

    with pytest.raises(PermissionError, match=r"pool\.jsonl"):
        least_redundant(
            Candidates(90, records=records), 5, zip_k1=10, zip_k2=2, zip_k3=1, on_progress=lambda count: None
        )


def test_it_needs_the_rows_themselves_and_nothing_else():
    declaration = least_redundant.declaration
    assert declaration.needs == frozenset({"records"})
    assert declaration.is_nested
