"""What is left of a journal, wherever a kill has torn it."""

from mig_selector.annotation.journal import Journal


def test_answers_are_read_as_they_were_added(tmp_path):
    journal = Journal(tmp_path / "more" / "answers.jsonl")
    assert journal.read() == {}
    answers = {"a": ["x", "\n", "\ud800é"], "b": 3, "c": ["y"]}
    for question, answer in answers.items():
        journal.add(question, answer)
    assert Journal(tmp_path / "more" / "answers.jsonl").read() == answers


def test_a_torn_line_is_ignored_and_ruins_no_other(tmp_path):
    path = tmp_path / "answers.jsonl"
    for question in "abc":
        Journal(path).add(question, [question])
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        before = Journal(path).read()
        assert all(answer == [question] for question, answer in before.items())
        assert len(before) == whole[:length].count(b"]]")
        Journal(path).add("d", "new")
        assert Journal(path).read() == {**before, "d": "new"}


def test_a_journal_that_others_can_write_to_is_not_believed(tmp_path):
    path = tmp_path / "answers.jsonl"
    Journal(path).add("a", 1)
    path.chmod(0o666)
    assert Journal(path).read() == {}
