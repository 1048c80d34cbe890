"""The command `evaluate`: models in process and behind an address, on a few rows of each benchmark."""

import gc
import itertools
import json
import os
import re
import shutil
import weakref
from pathlib import Path

import pytest
import requests
from benchmark_data import write_benchmarks
from chat_server import chat_server, reply

from mig_selector.cli import main
from mig_selector.errors import ModelError
from mig_selector.evaluation.answers import LocalModel, ServedModel, build_requests, server_fault
from mig_selector.evaluation.tasks import read_benchmark
from mig_selector.pipeline.evaluate_models import answers_of, find_results
from mig_selector.pipeline.evaluation_cost import describe_cost
from mig_selector.pipeline.evaluation_plan import EvaluationPlan


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(autouse=True)
def _no_data_of_nltk(monkeypatch):
    monkeypatch.setattr("nltk.data.path", [])


def messages_of(name, data_dir, number=0):
    """What a model is asked: the turns of a question of a benchmark."""
    benchmark = read_benchmark(name, data_dir, 1)
    requests = build_requests(benchmark, lambda messages, **_: json.dumps(messages))
    return [(turn["role"], turn["content"]) for turn in json.loads(requests[number].args[0])]


def test_arc_is_asked_without_examples_and_for_rows_of_four_choices(data_dir):
    assert messages_of("arc", data_dir) == [
        (
            "user",
            "Answer the following multiple choice question. The last line of your response should be of the following "
            "format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before "
            "answering.\n\nWhat falls?\n\nA. apple\nB. moon\nC. sun\nD. sky",
        )
    ]
    docs = read_benchmark("arc", data_dir, None).docs
    assert [(doc["id"], doc["target"]) for doc in docs] == [("a", "A"), ("c", "B")]


def test_bbh_is_asked_with_three_worked_examples_in_one_turn(data_dir):
    [(role, text)] = messages_of("bbh", data_dir)
    assert role == "user"
    assert text.startswith(
        "Follow the given examples and answer the question.\nEvaluate the result of a random Boolean expression.\n\n"
        "Q: not ( ( not not True ) ) is\nA: Let's think step by step.\nRemember that"
    )
    assert text.endswith("So the answer is True.\n\nQ: boolean_expressions?\nA: Let's think step by step.")
    assert text.count("\n\nQ: ") == 4


def test_mmlu_is_asked_with_five_examples_of_the_subject_as_turns(data_dir):
    turns = messages_of("mmlu", data_dir, 1)
    hint = "There is a single choice question about high school physics. Answer the question by replying A, B, C or D."
    question = hint + "\nQuestion: high_school_physics {}?\nA. w\nB. x\nC. y\nD. z\nAnswer: "
    examples = [[("user", question.format(n)), ("assistant", "ABCDA"[n])] for n in range(5)]
    assert turns == [*itertools.chain(*examples), ("user", question.format(0))]


def test_gsm8k_humaneval_and_ifeval_are_asked_as_published(data_dir):
    box = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert messages_of("gsm8k", data_dir) == [("user", f"What is 2 times 2?{box}")]
    assert messages_of("ifeval", data_dir) == [("user", "Write without commas.")]
    [(_, code)] = messages_of("humaneval", data_dir)
    assert code.startswith("Complete the following python code:\nfrom typing import List\n\n\ndef has_close_elements(")
    assert len(read_benchmark("humaneval", data_dir, None).docs) == 164


def test_questions_are_those_in_the_folder_whatever_was_read_before(data_dir, tmp_path):
    shutil.copytree(data_dir / "openai", tmp_path / "other" / "openai")
    assert [doc["target"] for doc in read_benchmark("gsm8k", tmp_path / "other", None).docs] == ["4", "1400"]
    [file] = (tmp_path / "other").rglob("*.jsonl")
    before = file.stat()
    file.write_text(file.read_text().replace("#### 4", "#### 5"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [doc["target"] for doc in read_benchmark("gsm8k", tmp_path / "other", None).docs] == ["5", "1400"]


def test_bbh_and_mmlu_have_all_their_subsets(data_dir):
    bbh = read_benchmark("bbh", data_dir, None)
    assert [len(docs) for _, docs in bbh.subsets()] == [2] * 27
    assert [subset for subset, _ in read_benchmark("mmlu", data_dir, None).subsets()] == [
        "astronomy",
        "high_school_physics",
    ]


def answer_some(message, _before):
    """A model that is right about ARC, one question of GSM8K, BBH's letters, astronomy, and HumanEval's third."""
    return complete(_text(message))


def complete(text):
    """An answer with all that lm_eval asks of a server."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return reply(body=json.dumps({"choices": [choice]}), headers={"Content-Type": "application/json"})


def _text(message):
    if "ANSWER: $LETTER" in message:
        return "ANSWER: A" if "falls" in message else "ANSWER: B"
    if "boxed" in message:
        return "So \\boxed{1,400}."
    if "Follow the given" in message:
        return "So the answer is (A)."
    if "single choice" in message:
        return "A" if message.count("astronomy 0") else "D"
    if "truncate_number" in message:
        return "```python\ndef truncate_number(number: float) -> float:\n    return number % 1.0\n```"
    return "Well, ..."


def run(capsys, *words):
    code = main(["evaluate", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_a_served_model_gets_its_row_and_is_not_asked_twice(data_dir, tmp_path, capsys):
    out = tmp_path / "results"
    with chat_server(answer_some) as server:
        words = ["--model-url", server.url, "--model-name", "some", "--data-dir", data_dir, "--output-dir", out]
        code, table, err = run(capsys, *words, "--limit", 3, "--allow-code")
        assert code == 0, err
        asked = len(server.requests)
        assert asked == 2 + 54 + 2 + 3 + 4 + 2
        assert server.requests[0][2]["temperature"] == 0
        # Scores by hand: BBH is right about one of two questions of each task, MMLU about one of four.
        expected = {"arc": 100.0, "bbh": 50.0, "gsm8k": 50.0, "humaneval": 100 / 3, "mmlu": 25.0, "ifeval": 0.0}
        cells = json.loads((out / "table.json").read_text())
        assert {cell["column"]: cell["score"] for cell in cells} == pytest.approx(expected)
        assert not any(cell["is_whole"] for cell in cells)
        assert "avg" not in table
        assert table.splitlines()[1].split()[1:] == ["100.00*", "50.00*", "50.00*", "33.33*", "25.00*", "0.00*"]
        arc = next(cell for cell in cells if cell["column"] == "arc")
        assert (arc["low"], arc["high"]) == pytest.approx((34.24, 100), abs=0.01)  # Wilson's, of 2 of 2
        assert (out / "table.csv").read_text().count("\n") == 7

        assert run(capsys, *words, "--limit", 3, "--allow-code")[:2] == (0, table)
        assert len(server.requests) == asked
        # Without a result its answers are still there; without some answers those alone are asked for.
        result = next(out.glob("some-*/gsm8k-first-3.json"))
        record = json.loads(result.read_text())
        assert [(item["id"], item["answer"], item["score"]) for item in record["items"]] == [
            (0, "So \\boxed{1,400}.", 0.0),
            (1, "So \\boxed{1,400}.", 1.0),
        ]
        result.unlink()
        journal = result.with_name("gsm8k.answers.jsonl")
        journal.write_bytes(b"\n".join(journal.read_bytes().splitlines()[:2]))
        assert run(capsys, *words, "--limit", 3, "--allow-code")[:2] == (0, table)
        assert len(server.requests) == asked + 1
        assert json.loads(result.read_text()) == record


def test_answers_without_text_are_counted_and_asked_for_again(data_dir, tmp_path, capsys):
    with chat_server(lambda *_: complete(None)) as server:
        words = ["--model-url", server.url, "--model-name", "m", "--data-dir", data_dir, "--tasks", "gsm8k"]
        code, table, err = run(capsys, *words, "--output-dir", tmp_path / "results")
        assert code == 0
        dry = run(capsys, *words, "--output-dir", tmp_path / "results", "--dry-run")[1]
        assert dry.splitlines() == ["models: 1 (m); for each of them:", "gsm8k      finished"]
        assert "gsm8k: 2 of 2 answers have no text; they are graded as empty" in err
        assert table.splitlines()[1].endswith(" 0.00*")
    assert not list((tmp_path / "results").rglob("*.answers.jsonl"))


def test_an_output_folder_that_cannot_be_used_is_an_error(data_dir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with chat_server(answer_some) as server:
        words = ["--model-url", server.url, "--model-name", "m", "--data-dir", data_dir, "--tasks", "gsm8k"]
        code, _, err = run(capsys, *words, "--output-dir", tmp_path / "file" / "results")
    assert code == 1
    assert "cannot be used: Not a directory. Grant access to it, free some space, or give another folder" in err


@pytest.mark.slow
def test_a_server_that_is_not_there_is_an_error(data_dir, tmp_path, capsys):
    words = ["--model-url", "http://127.0.0.1:9/v1", "--model-name", "m", "--data-dir", data_dir, "--tasks", "gsm8k"]
    code, _, err = run(capsys, *words, "--output-dir", tmp_path / "results")
    assert code == 1
    assert "the server of the model cannot be reached: " in err
    assert "Check --model-url, and that the server runs" in " ".join(err.split())


def test_a_password_in_an_address_is_refused(capsys):
    code, _, err = run(capsys, "--model-url", "http://user:word@127.0.0.1:9/v1", "--model-name", "m")
    assert code == 1
    assert "--model-url: expected http:// or https://, a host" in err
    assert "no user, password or query. The key of an API goes into OPENAI_API_KEY" in " ".join(err.split())
    assert "word@" not in err


@pytest.mark.parametrize(
    ("status", "is_of_the_model", "message"),
    [
        (401, True, "the server of the model refuses the key (401). Put it into OPENAI_API_KEY."),
        (404, True, "does not know the address or the model (404). Check --model-url"),
        (400, False, "gsm8k: the server of the model refuses a question (400)"),
        (429, True, "failed 5 times in a row (429). Its log says why; if it has too much to do, lower --requests"),
        (500, True, "failed 5 times in a row (500). Its log says why"),
    ],
)
def test_a_server_that_fails_is_told_apart_from_one_that_refuses(status, is_of_the_model, message):
    response = requests.Response()
    response.status_code = status
    fault = server_fault("gsm8k", requests.HTTPError(response=response))
    assert message in str(fault)
    assert isinstance(fault, ModelError) is is_of_the_model


@pytest.mark.slow
def test_a_server_that_answers_with_a_page_is_an_error(data_dir, tmp_path, capsys):
    with chat_server(lambda *_: reply(body="<html>")) as server:
        words = ["--model-url", server.url, "--model-name", "m", "--data-dir", data_dir, "--tasks", "gsm8k"]
        code, _, err = run(capsys, *words, "--output-dir", tmp_path / "results")
    assert code == 1
    assert "the server of the model does not answer as OpenAI's" in err
    assert "Traceback" not in err


def test_what_cannot_be_run_is_left_out_and_the_table_has_earlier_models(data_dir, tmp_path, capsys):
    shutil.copytree(data_dir / "openai", tmp_path / "data" / "openai")
    out = tmp_path / "results"
    with chat_server(answer_some) as server:
        for name in ("first", "second"):
            words = ["--model-url", server.url, "--model-name", name, "--data-dir", tmp_path / "data"]
            code, table, err = run(capsys, *words, "--output-dir", out)
            assert code == 0, err
    assert "ARC is blank: --data-dir: arc needs" in table
    assert "HE is blank: it runs programs that the model writes, which --allow-code allows" in table
    assert "AE, MT, Wild are blank: they need a judge (--judge-url and --judge-model)" in table
    assert "out of --tasks" not in table + err
    assert "left out: humaneval, alpacaeval, mtbench, wildbench, arc, bbh, mmlu, ifeval; the reasons" in err
    assert "arc needs" not in err
    assert "IFEval is blank: ifeval counts sentences with NLTK's punkt_tab" in table
    assert [line.split()[0][:6] for line in table.splitlines()[1:4:2]] == ["second", "first-"]
    cells = json.loads((out / "table.json").read_text())
    assert [(cell["model"].partition("-")[0], cell["column"]) for cell in cells] == [
        ("second", "gsm8k"),
        ("first", "gsm8k"),
    ]


@pytest.mark.slow
def test_a_folder_of_models_is_evaluated_in_process(data_dir, tiny_llama, tmp_path, capsys):
    study, out = tmp_path / "study", tmp_path / "results"
    shutil.copytree(tiny_llama, study / "arm" / "model")
    (study / "arm" / "model" / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    shutil.copytree(tiny_llama, study / "arm" / "checkpoint-5")
    shutil.copytree(tiny_llama, study / ".arm.unfinished" / "model")
    words = [study, "--data-dir", data_dir, "--output-dir", out, "--tasks", "mmlu", "--limit", 1]
    code, table, err = run(capsys, *words)
    assert code == 0, err
    assert re.match(r"arm-[0-9a-f]{8} +\d+\.\d\d\*$", table.splitlines()[1])
    record = json.loads(next(out.glob("arm-*/mmlu-first-1.json")).read_text())
    assert set(record["identity"]) == {"model", "task", "data", "lm_eval", "mig_selector"}
    assert [item["subset"] for item in record["items"]] == ["astronomy", "high_school_physics"]
    # lm_eval hands answers over as they come, and the journal has each once.
    [journal] = out.rglob("*.answers.jsonl")
    answers = [json.loads(line)[1] for line in journal.read_bytes().splitlines() if line]
    assert sorted(answers) == sorted(item["answer"] for item in record["items"])


def test_the_cost_is_said_and_nothing_is_asked(data_dir, tmp_path, capsys):
    words = ["--model-url", "http://localhost:1/v1", "--model-name", "m", "--output-dir", tmp_path / "none"]
    code, text, _ = run(capsys, *words, "--data-dir", data_dir, "--tasks", "gsm8k", "--dry-run")
    assert code == 0
    assert "gsm8k           2 requests, about          45 tokens of questions, at most       2,048 of answers" in text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a model folder, or a served model with --model-url"),
        (["--tasks", "arc,arcc"], "--tasks: there is no 'arcc'. The benchmarks are arc, bbh, gsm8k, humaneval"),
        (["--tasks", "humaneval"], "humaneval runs programs that the model writes. Allow that with --allow-code."),
        (["--limit", "0"], "--limit must be 1 or more, but is 0."),
        (["--batch-size", "-1"], "--batch-size must be 1 or more, but is -1."),
        (["--model-url", "http://x/v1", "--model-name", " "], "--model-name is empty; give what the server at"),
        (["--model-url", "", "--model-name", "m"], "--model-url: expected http:// or https://"),
        (["--model-url", "http://x/v1"], "--model-url and --model-name belong together"),
        (["nowhere"], "nowhere is not a folder"),
        (["."], "has no model in it"),
    ],
)
def test_errors_name_the_option_before_any_work(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words, "--data-dir", tmp_path)
    assert (code, out) == (1, "")
    assert message in err


def test_data_that_is_missing_or_of_another_format_is_named(data_dir, tmp_path, capsys):
    served = ["--model-url", "http://localhost:1/v1", "--model-name", "m", "--data-dir", tmp_path]
    code, _, err = run(capsys, *served, "--tasks", "gsm8k")
    assert code == 1
    assert f"--data-dir: gsm8k needs {tmp_path}/openai/gsm8k, which is not a folder" in err
    assert "hf download openai/gsm8k --repo-type dataset" in err
    assert " Or leave gsm8k out of --tasks." in " ".join(err.split())
    folder = tmp_path / "openai" / "gsm8k"
    (folder / "main").mkdir(parents=True)
    (folder / "main" / "test.jsonl").write_text('{"question": "?", "answer": "no mark"}\n')
    err = run(capsys, *served, "--tasks", "gsm8k")[2]
    assert "It lacks the dataset's README.md, which says what its files are: fetch it too." in " ".join(err.split())
    (folder / "README.md").write_text((data_dir / "openai" / "gsm8k" / "README.md").read_text())
    err = run(capsys, *served, "--tasks", "gsm8k")[2]
    assert "gsm8k: row 0 of split test of openai/gsm8k is not in the published format (IndexError" in err
    shutil.copytree(data_dir / "cais", tmp_path / "cais")
    (tmp_path / "cais" / "mmlu" / "all" / "dev.jsonl").write_text(
        (data_dir / "cais" / "mmlu" / "all" / "test.jsonl").read_text()
    )
    err = run(capsys, *served, "--tasks", "mmlu")[2]
    assert "mmlu: split dev of cais/mmlu has 2 examples of astronomy, but 5 are needed" in err
    assert "ifeval counts sentences with NLTK's punkt_tab" in run(capsys, *served, "--tasks", "ifeval")[2]


def test_a_model_that_reads_too_few_tokens_is_refused_before_it_is_loaded(data_dir, tmp_path, capsys):
    folder = tmp_path / "runs" / "mig-seed0" / "model"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text('{"max_position_embeddings": 1024}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    words = [folder, "--data-dir", data_dir, "--output-dir", tmp_path / "none", "--dry-run", "--tasks"]
    code, _, err = run(capsys, *words, "gsm8k")
    assert code == 1
    assert "gsm8k: mig-seed0 reads at most 1,024 tokens (max_position_embeddings in " in " ".join(err.split())
    assert "Evaluate a model that reads more. Or leave gsm8k out of --tasks." in " ".join(err.split())
    code, text, _ = run(capsys, *words, "mmlu")
    assert (code, text.splitlines()[0]) == (0, "models: 1 (mig-seed0); for each of them:")


def test_answers_of_a_run_that_was_cut_off_are_counted(data_dir, tmp_path, capsys):
    plan = EvaluationPlan(
        (ServedModel("http://localhost:1/v1", "m"),), (read_benchmark("gsm8k", data_dir, None),), tmp_path, {}
    )
    [(_, _, folder)] = find_results(plan)
    answers_of(plan.benchmarks[0], folder).add("question", "answer")
    kept = "kept of runs that were cut off, all models together: 1 answers"
    assert describe_cost(plan).splitlines()[2].strip() == kept


def test_a_model_without_chat_template_is_refused(data_dir, tiny_llama, tmp_path, capsys):
    code, _, err = run(
        capsys, tiny_llama, "--data-dir", data_dir, "--tasks", "gsm8k", "--output-dir", tmp_path / "none"
    )
    assert code == 1
    assert "its tokenizer has no chat template" in err
    assert not (tmp_path / "none").exists()


def test_the_model_before_is_gone_when_the_next_one_is_loaded(tiny_llama):
    model = LocalModel(Path(tiny_llama), "tiny", "cpu")
    gc.disable()  # when Python looks for reference cycles by itself is a matter of chance
    try:
        first = weakref.ref(model.load())
        model.load()
        assert first() is None
    finally:
        gc.enable()
