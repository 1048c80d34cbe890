"""The judged benchmarks: a model and a judge behind addresses, verdicts that can be read, and those that cannot."""

import json
import random

import pytest
from benchmark_data import WILDBENCH_REFERENCES, write_json_lines, write_judged_benchmarks, write_parquet
from chat_server import chat_server, reply

from mig_selector.annotation.chat import ChatModel
from mig_selector.annotation.journal import Journal
from mig_selector.cli import main
from mig_selector.errors import EvaluationError
from mig_selector.evaluation.intervals import wilson
from mig_selector.evaluation.judge import JUDGE_OPTIONS, Judge
from mig_selector.evaluation.judged import read_judged, write_queries
from mig_selector.evaluation.results import read_result, write_result
from mig_selector.evaluation.table import make_cells, render_text
from mig_selector.evaluation.verdicts import read_rating


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_judged_benchmarks(tmp_path_factory.mktemp("judged"))


def judge_at(url="http://localhost:1/v1"):
    return Judge(ChatModel(url, "judge", 4, 5.0, 100, JUDGE_OPTIONS))


def queries_of(name, data_dir, answers):
    return write_queries(read_judged(name, data_dir, None, judge_at()), answers)


def test_mtbench_is_rated_turn_by_turn_with_references_for_some_categories(data_dir):
    poem, math = queries_of("mtbench", data_dir, [["Roses.", "Red."], ["5.", "10."]])
    assert [query.about for query in poem] == ["turn 1", "turn 2"]
    first, second = (query.prompt for query in math)
    assert "Judge the answer to the first question of the user." in first
    assert "A reference answer is given" in first
    assert first.endswith(
        "[The user's first question]\nWhat is 2 + 2?\n\n[Reference answer to the first question]\nIt is 4.\n\n"
        "[The assistant's answer to the first question]\n5.\n[End of the answer]"
    )
    assert "Judge the answer to the second question of the user." in second
    for text in ("What is 2 + 2?", "It is 4.", "\n5.\n", "And twice that?", "It is 8.", "\n10.\n"):
        assert text in second
    assert not any("reference" in query.prompt.lower() for query in poem)


def test_pairs_are_shown_in_the_order_that_opencompass_draws(data_dir):
    queries = [query for [query] in queries_of("alpacaeval", data_dir, [["mine"]] * 6)]
    assert [query.is_second for query in queries] == [True, True, True, True, False, True]
    generator, drawn = random.Random(666), []
    for _ in queries:
        pair = ["reference", "model"]
        generator.shuffle(pair)
        drawn.append(pair[1] == "model")
    assert [query.is_second for query in queries] == drawn
    for number, query in enumerate(queries, start=1):
        assert f"\n\nName {number} colours.\n\n" in query.prompt
        assert (query.prompt.index("mine") > query.prompt.index(f"reference {number}")) is query.is_second


def test_wildbench_shows_history_query_and_checklist_beside_each_reference(data_dir):
    _, talk = queries_of("wildbench", data_dir, [["Day 1: $3 {a}"], ["mine"]])
    assert [query.about for query in talk] == list(WILDBENCH_REFERENCES)
    prompt = talk[1].prompt
    assert "<|begin_of_history|>\n\nUSER: Which city?\n\nASSISTANT: Rome costs $5.\n\n<|end_of_history|>" in prompt
    assert "<|begin_of_query|>\n\nWhy?\n\n<|end_of_query|>" in prompt
    assert "<|begin_of_checklist|>\n\n- Is it clear?\n- Is it true?\n\n<|end_of_checklist|>" in prompt
    assert "<|begin_of_response_A|>\n\nclaude-3-haiku-20240307 on s1\n\n<|end_of_response_A|>" in prompt
    assert "<|begin_of_response_B|>\n\nmine\n\n<|end_of_response_B|>" in prompt


def answer(message, _before):
    """A model whose answer names the question."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": f"answer to: {message}"},
        "finish_reason": "stop",
    }
    return reply(body=json.dumps({"choices": [choice]}), headers={"Content-Type": "application/json"})


def judge(prompt, _before):
    """Rates a poem 7 and 5 and a sum 10 and 4; prefers the second and fifth list of colours; knows three models."""
    if "[[rating]]" in prompt:
        ratings = ("7", "5") if "poem" in prompt else ("10", "4")
        return reply(f"Because. Rating: [[{ratings['second question of the user' in prompt]}]]")
    if "m or M" in prompt:
        winner = "answer to" if "Name 2" in prompt or "Name 5" in prompt else "reference"
        first = prompt.partition('## Output of model "m"')[2].partition('## Output of model "M"')[0]
        return reply("m" if winner in first else "M")
    choices = dict(zip(WILDBENCH_REFERENCES, ("A++", "A+", "B+"), strict=True))
    choice = next((choices[model] for model in choices if f"{model} on s0" in prompt), "A=B")
    return reply(f'{{"analysis of A": "x", "choice": "{choice}"}}')


def run(capsys, *words):
    code = main(["evaluate", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def words_for(model, judge_server, data_dir, out, **options):
    served = ["--model-url", model.url, "--model-name", "some", "--judge-url", judge_server.url, "--judge-model", "J"]
    more = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [*served, "--data-dir", data_dir, "--output-dir", out, *more]


def scores_in(out):
    return {cell["column"]: cell["score"] for cell in json.loads((out / "table.json").read_text())}


ALL = "mtbench,alpacaeval,wildbench"
BY_HAND = {
    "mtbench": ((7 + 5) / 2 + (10 + 4) / 2) / 2,
    "alpacaeval": 100 * 2 / 6,
    # The reference is A: A++ is -1 for the model, A+ is -0.5, B+ is 0.5; the second conversation is all ties.
    "wildbench": 100 * ((-1 - 0.5 + 0.5) / 3 + 0) / 2,
}


def test_verdicts_become_the_scores_worked_by_hand_and_nothing_is_asked_twice(data_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MIG_JUDGE_API_KEY", "secret")
    out = tmp_path / "results"
    with chat_server(answer) as model, chat_server(judge) as judging:
        words = words_for(model, judging, data_dir, out, tasks=ALL)
        code, table, err = run(capsys, *words)
        assert code == 0, err
        assert scores_in(out) == pytest.approx(BY_HAND)
        assert table.splitlines()[1].split()[1:] == ["33.33*", "6.50*", "-16.67*"]
        assert len(model.requests) == 2 * 2 + 6 + 2
        assert judging.asked[0] == "Reply with the word yes."
        assert len(judging.requests) == 1 + 2 * 2 + 6 + 2 * 3
        _, _, body, headers = judging.requests[0]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("J", 0.0, 2048)
        assert headers["Authorization"] == "Bearer secret"
        # The second turn of MT-Bench has the first one, with the model's own answer, before it.
        second = next(body for _, message, body, _ in model.requests if message == "Make it shorter.")
        assert [turn["content"] for turn in second["messages"]] == [
            "Write a poem.",
            "answer to: Write a poem.",
            "Make it shorter.",
        ]
        assert (second["temperature"], second["max_tokens"]) == (0, 1024)

        # What was killed goes on: a result is made again from kept answers and verdicts, and only lost ones are asked.
        [result] = out.glob("some-*/mtbench.json")
        record = json.loads(result.read_text())
        assert run(capsys, *words)[:2] == (0, table)
        result.unlink()
        verdicts = result.with_name("mtbench.verdicts.jsonl")
        verdicts.write_bytes(b"\n".join(verdicts.read_bytes().splitlines()[:3]))
        assert run(capsys, *words)[:2] == (0, table)
        assert json.loads(result.read_text()) == record
        assert len(model.requests) == 2 * 2 + 6 + 2
        assert len(judging.requests) == 17 + 1 + 2
    item = record["items"][0]
    assert (item["id"], item["answers"][0], item["score"]) == (81, "answer to: Write a poem.", 6.0)
    assert [(each["about"], each["text"], each["score"]) for each in item["verdicts"]] == [
        ("turn 1", "Because. Rating: [[7]]", 7.0),
        ("turn 2", "Because. Rating: [[5]]", 5.0),
    ]
    assert record["identity"]["judge"] == {"model": "J", "max_tokens": 2048}
    assert "Rating" in record["identity"]["task"]["prompt"]
    assert record["parts"] == {"turn 1": 8.5, "turn 2": 4.5}
    wildbench = json.loads(next(out.glob("some-*/wildbench.json")).read_text())
    assert wildbench["parts"] == dict(zip(WILDBENCH_REFERENCES, (-50.0, -25.0, 25.0), strict=True))
    cells = {cell["column"]: cell for cell in json.loads((out / "table.json").read_text())}
    low, high = wilson(2, 6)
    assert (cells["alpacaeval"]["low"], cells["alpacaeval"]["high"]) == pytest.approx((100 * low, 100 * high))
    assert cells["mtbench"]["low"] == pytest.approx(6.0)  # two questions, 6 and 7: a draw has both, or one twice
    assert cells["mtbench"]["high"] == pytest.approx(7.0)


def test_a_judge_without_verdicts_leaves_its_column_blank_and_the_others_alone(data_dir, tmp_path, capsys):
    def mute(prompt, before):
        return reply("No idea.") if "[[rating]]" in prompt else judge(prompt, before)

    out = tmp_path / "results"
    with chat_server(answer) as model, chat_server(mute) as judging:
        words = words_for(model, judging, data_dir, out, tasks="mtbench,alpacaeval")
        code, table, err = run(capsys, *words)
        assert code == 1
        assert table.splitlines()[1].split()[1:] == ["33.33*"]
        assert (
            "some: mtbench has no score: the judge gave no usable verdict on 4 of 4 requests (no rating from 1 to 10, "
            "such as [[5]]: 4), and at most 5% may fail"
        ) in " ".join(err.split())
        assert [judging.asked.count(prompt) for prompt in set(judging.asked) if "[[rating]]" in prompt] == [2] * 4
        record = json.loads(next(out.glob("some-*/mtbench.json")).read_text())
        assert record["score"] is None
        assert record["items"][0]["verdicts"][0]["reason"] == "no rating from 1 to 10, such as [[5]]"

        judging.behave = judge
        before = len(model.requests), len(judging.requests)
        code, table, err = run(capsys, *words)
        assert (code, table.splitlines()[1].split()[1:]) == (0, ["33.33*", "6.50*"]), err
        assert (len(model.requests), len(judging.requests)) == (before[0], before[1] + 1 + 4)


def test_a_verdict_that_cannot_be_read_is_asked_for_once_more(tmp_path):
    with chat_server(lambda _, before: reply("Rating: [[8]]" if before else "Good.")) as judging:
        verdicts = judge_at(judging.url).ask("mtbench", ["a", "b", "a"], read_rating, Journal(tmp_path / "j.jsonl"))
        assert [verdict.value for verdict in verdicts] == [8.0, 8.0, 8.0]
        assert sorted(judging.asked) == ["a", "a", "b", "b"]
        assert sorted(body["temperature"] for _, _, body, _ in judging.requests) == [0.0, 0.0, 0.7, 0.7]


def test_a_judge_that_fails_from_the_start_is_not_paid_for_every_question(tmp_path):
    prompts = [f"prompt {number}" for number in range(200)]
    with chat_server(lambda *_: reply("Good.")) as judging:
        with pytest.raises(EvaluationError, match=r"no usable verdict on 21 of 200 requests"):
            judge_at(judging.url).ask("mtbench", prompts, read_rating, Journal(tmp_path / "j.jsonl"))
        assert len(judging.requests) < 2 * 40


def test_a_judge_that_refuses_is_named_by_its_options(tmp_path):
    fault = r"^--judge-url: .* --judge-model: judge: the server answered 401: bad key.* the key in MIG_JUDGE_API_KEY"
    with chat_server(lambda *_: reply(status=401, body='{"error": {"message": "bad key"}}')) as judging:
        with pytest.raises(EvaluationError, match=fault):
            judge_at(judging.url).ask("mtbench", ["a"], read_rating, Journal(tmp_path / "j.jsonl"))
        with pytest.raises(EvaluationError, match=fault):
            judge_at(judging.url).check()


def test_a_judge_is_tried_before_a_model_is_asked(data_dir, tmp_path, capsys):
    with chat_server(answer) as model, chat_server(lambda *_: reply("y", finish="length")) as judging:
        code, out, err = run(capsys, *words_for(model, judging, data_dir, tmp_path / "results", tasks="mtbench"))
        assert (code, out, model.requests) == (1, "", [])
    assert "does not answer a simple question: the answer was cut off (--judge-max-tokens)." in " ".join(err.split())


def items_of(scores):
    """One question a score, judged once; None stands for a verdict that could not be read."""
    return [
        {"subset": "", "score": score, "verdicts": [{"about": "turn 1", "score": score, "reason": "?"}]}
        for score in scores
    ]


def test_questions_without_a_verdict_are_left_out_up_to_one_in_twenty(tmp_path):
    path, identity = tmp_path / "mtbench.json", {"model": 1, "task": 2}
    result = write_result(path, "mtbench", identity, items_of([*[2.0, 8.0] * 19, 5.0, None]))
    assert (result.score, result.num_items, result.num_failed) == (pytest.approx(5.0), 40, 1)
    note = "MT of m: without the questions of 1 verdict that could not be read"
    assert note in render_text({"m": make_cells("m", [result])})
    again = read_result(path, "mtbench", {"task": 2})
    assert again is not None
    assert (again.score, again.low, again.num_failed) == (result.score, result.low, 1)
    assert read_result(path, "mtbench", {"task": 3}) is None
    with pytest.raises(EvaluationError, match=r"mtbench has no score: .* 3 of 40 requests \(\?: 3\), and at most 5%"):
        write_result(path, "mtbench", identity, items_of([*[2.0] * 37, *[None] * 3]))
    assert read_result(path, "mtbench", identity) is None


def test_the_cost_of_the_judge_is_said(data_dir, tmp_path, capsys):
    words = ["--model-url", "http://localhost:1/v1", "--model-name", "m", "--judge-url", "http://localhost:1/v1"]
    code, text, _ = run(
        capsys, *words, "--judge-model", "J", "--tasks", ALL, "--data-dir", data_dir, "--dry-run", "--limit", 1
    )
    assert code == 0
    lines = [line.split() for line in text.splitlines()[1:]]
    assert [(line[0], line[1]) for line in lines] == [
        ("mtbench", "2"),
        ("judge", "2"),
        ("alpacaeval", "1"),
        ("judge", "1"),
        ("wildbench", "1"),
        ("judge", "3"),
    ]
    assert text.splitlines()[1].endswith("at most       2,048 of answers")
    assert text.splitlines()[2].endswith("at most       4,096 of answers, plus the answers, which it reads too")


JUDGED = ["--judge-url", "http://localhost:1/v1", "--judge-model", "J", "--tasks"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "arc,mtbench"], "--tasks: mtbench needs a judge. Name one with --judge-url and --judge-model."),
        (["--judge-url", "http://x/v1"], "--judge-url and --judge-model belong together"),
        (["--judge-url", "http://x/v1", "--judge-model", ""], "--judge-model is empty"),
        (["--judge-url", "x", "--judge-model", "J"], "--judge-url: expected http:// or https://"),
        (["--judge-url", "http://a:b@x/v1", "--judge-model", "J"], "MIG_JUDGE_API_KEY in the environment"),
        ([*JUDGED, "mtbench", "--judge-requests", "0"], "--judge-requests must be 1 or more, but is 0."),
        ([*JUDGED, "mtbench"], "mtbench: --data-dir is missing"),
        ([*JUDGED, "mtbench", "--data-dir", "."], "mt_bench/reference_answer/gpt-4.jsonl, and there is no such file"),
        (
            [*JUDGED, "wildbench", "--data-dir", "."],
            "allenai/WildBench-V2-Model-Outputs/gpt-4-turbo-2024-04-09",
        ),
    ],
)
def test_errors_of_the_judge_name_the_option_before_any_work(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "--model-url", "http://localhost:1/v1", "--model-name", "m", *words)
    assert (code, out) == (1, "")
    assert message in " ".join(err.split())


def test_files_that_are_not_as_published_are_named(tmp_path):
    folder = tmp_path / "mt_bench"
    answers = folder / "reference_answer" / "gpt-4.jsonl"
    write_json_lines(answers, [])
    write_json_lines(folder / "question.jsonl", [{"question_id": 1, "category": "math", "turns": ["a", "b"]}])
    with pytest.raises(EvaluationError, match=r"mtbench: row 0 of .*question.jsonl .* \(KeyError: 1\)"):
        read_judged("mtbench", tmp_path, None, judge_at())
    answers.write_text("{")
    with pytest.raises(EvaluationError, match=r"mtbench: .*gpt-4.jsonl cannot be read: Expecting"):
        read_judged("mtbench", tmp_path, None, judge_at())
    write_parquet(
        tmp_path / "allenai" / "WildBench-V2-Model-Outputs" / WILDBENCH_REFERENCES[0] / "x.parquet", [{"a": 1}]
    )
    with pytest.raises(EvaluationError, match=r"wildbench: row 0 of .*gpt-4-turbo-2024-04-09 .* 'session_id'"):
        read_judged("wildbench", tmp_path, None, judge_at())
