"""The command line against the app behind a real socket: what it prints, and its exit status."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from luthier.cli import client as client_module
from luthier.cli.main import main
from luthier.platform.access import Caller
from luthier.platform.jobs import Event, JobError, JobNews
from luthier.platform.registry.registry import Registry
from luthier.platform.run_files import MetricsWriter, RunFiles
from luthier.platform.settings import Settings
from luthier.serve import follow
from tests.factories import KEY, make_progress
from tests.fakes import EchoEngine
from tests.flow.conftest import SELECT
from tests.platform.test_run_files import step

Run = Callable[..., Result]


@pytest.fixture
def run(server: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command with the server's URL and key in the environment."""
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.0)
    return lambda *words, stdin=None: CliRunner().invoke(main, list(words), input=stdin)


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,completion\n" + "".join(f"q {n},a {n}\n" for n in range(4)))
    return str(file)


def good(result: Result) -> str:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def as_json(result: Result) -> Any:
    return json.loads(good(result))


def refused(result: Result, status: int) -> str:
    """One line on stderr and nothing on stdout."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def create(run: Run, *more: str, name: str = "tuned", data: str = SELECT) -> Result:
    return run("finetune", "create", name, "--base-model", "tiny", "--training-data", data, *more)


def test_a_job(run: Run, faq: str, train: Callable[[str], Path]) -> None:
    job_id = good(create(run, "--max-epochs", "2", "--set", "learning_rate=2e-4", "--set", "seed=7")).strip()
    assert job_id.startswith("ft_")
    assert "PENDING" in good(run("finetune", "describe", job_id))
    train(job_id)
    (row,) = as_json(run("finetune", "show", "--json"))
    assert (row["id"], row["options"]["learning_rate"], row["options"]["seed"]) == (job_id, 2e-4, 7)
    shown = good(run("finetune", "show"))
    assert all(word in shown for word in (job_id, "SUCCESS", "100%", "LUTHIER.PUBLIC.tuned"))
    assert as_json(run("finetune", "describe", job_id, "--json"))["trained_tokens"] == 60
    assert "COMPLETED" in good(run("finetune", "events", job_id))
    assert len(as_json(run("finetune", "events", job_id, "--json"))) == 4
    watched = run("finetune", "watch", job_id, "--json")
    assert watched.exit_code == 0
    assert json.loads(watched.stdout)["status"] == "SUCCESS"
    assert watched.stderr.splitlines()[-1] == "SUCCESS step 1/4  loss 2.000"


@pytest.fixture
def moving(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at a job moves it on: it starts, trains, is cancelled."""
    real, looks = registry.jobs.news, itertools.count()

    def news(caller: Caller, job_id: str, after: int = 0) -> JobNews:
        look = next(looks)
        if look == 1:
            registry.jobs.tick()
        elif look == 2:
            registry.jobs.report(job_id, make_progress(2), [Event(time=0, type="TRAIN_STARTED", message="from step 1")])
        elif look == 4:
            registry.jobs.cancel(caller, job_id)
        return real(caller, job_id, after)

    monkeypatch.setattr(registry.jobs, "news", news)


def test_waiting_for_a_job_that_is_cancelled(run: Run, faq: str, moving: None) -> None:
    result = create(run, "--wait")
    assert result.exit_code == 1
    first, *lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in result.stderr.splitlines()]
    assert first.startswith("Job ft_")
    assert lines == [
        "CREATED Model LUTHIER.PUBLIC.tuned on tiny",
        lines[1],
        "PENDING",
        "STARTED The run's processes start",
        "IN_PROGRESS",
        "TRAIN_STARTED from step 1",
        "IN_PROGRESS step 2/4  loss 2.000",
        "CANCELED Cancelled by admin",
        "CANCELLED step 2/4  loss 2.000",
    ]
    assert "CANCELLED" in result.stdout


@pytest.mark.parametrize("plot", [True, False])
def test_a_terminal_shows_a_bar_and_the_curve(
    run: Run, faq: str, settings: Settings, moving: None, monkeypatch: pytest.MonkeyPatch, plot: bool
) -> None:
    job_id = good(create(run)).strip()
    files = RunFiles(settings.storage / "runs" / job_id)
    MetricsWriter(files.metrics).add([step(number, loss=3 / number) for number in range(1, 40)])
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    result = run("finetune", "watch", job_id, *([] if plot else ["--no-plot"]))
    assert result.exit_code == 1
    assert "TRAIN_STARTED" in result.stderr
    assert "step 2/4  loss 2.000" in result.stderr
    assert ("-> (step)" in result.stderr) is plot


def test_metrics(run: Run, faq: str, settings: Settings) -> None:
    job_id = good(create(run)).strip()
    assert good(run("finetune", "metrics", job_id)) == "No steps yet.\n"
    assert good(run("finetune", "metrics", job_id, "--plot")) == "No steps yet.\n"
    files = RunFiles(settings.storage / "runs" / job_id)
    MetricsWriter(files.metrics).add([step(n, loss=3 / n, validation=0.5 if n == 90 else None) for n in range(1, 101)])
    rows = as_json(run("finetune", "metrics", job_id, "--json"))
    assert [row["step"] for row in rows] == list(range(1, 101))
    assert rows[89]["validation_loss"] == 0.5
    assert len(as_json(run("finetune", "metrics", job_id, "--json", "--since-step", "98"))) == 2
    table = good(run("finetune", "metrics", job_id))
    assert "training loss" in table
    assert [line.split()[0] for line in table.splitlines() if line.strip()[:1].isdigit()][-2:] == ["95", "100"]
    curve = good(run("finetune", "metrics", job_id, "--plot"))
    assert "(loss, x: validation)" in curve
    assert sum(line.count("x") for line in curve.splitlines()[1:]) == 1
    assert "\x1b" not in curve


def test_logs(run: Run, faq: str, settings: Settings) -> None:
    job_id = good(create(run)).strip()
    assert good(run("finetune", "logs", job_id)) == "No logs yet.\n"
    files = RunFiles(settings.storage / "runs" / job_id)
    files.logs.mkdir(parents=True)
    (files.logs / "supervisor.log").write_text("one\n")
    (files.logs / "worker-0.log").write_text("two\n")
    assert good(run("finetune", "logs", job_id)) == "==> supervisor.log <==\none\n\n==> worker-0.log <==\ntwo\n\n"
    assert as_json(run("finetune", "logs", job_id, "--json")) == {"supervisor.log": "one\n", "worker-0.log": "two\n"}


def test_watching_a_job_that_failed(run: Run, faq: str, registry: Registry) -> None:
    job_id = good(create(run)).strip()
    registry.jobs.fail(job_id, JobError(code="BAD", message="The loss is nan."), billable=True)
    result = run("finetune", "watch", job_id)
    assert result.exit_code == 1
    assert "The loss is nan." in result.stdout


def test_cancel(run: Run, faq: str) -> None:
    job_id = as_json(create(run, "--json"))["id"]
    assert good(run("finetune", "cancel", job_id)) == f"Cancelled job {job_id}.\n"


def test_dry_run(run: Run, data: str) -> None:
    shown = good(create(run, "--dry-run", data=data))
    words = ("3 to train on, 1 to validate on (split off)", "credits", "[[a 0<|im_end|>]]")
    assert all(word in shown for word in words)
    report = as_json(create(run, "--dry-run", "--json", "--max-epochs", "1", data=data))
    assert (report["rows"], report["duration"]) == (3, "1ep")
    assert "No fine-tuning jobs yet" in good(run("finetune", "show"))


def test_empty_states(run: Run) -> None:
    for words, hint in (
        (("finetune", "show"), "No fine-tuning jobs yet. `luthier finetune create` starts one."),
        (("tables", "list"), "No tables yet. `luthier tables create NAME FILE` uploads one."),
        (("views", "list"), "No views yet. `luthier views create NAME QUERY` makes one."),
        (("models", "list"), "No tuned models yet. `luthier finetune create` makes one."),
        (("usage", "credits"), "No usage in this time."),
        (("sql", "SELECT 1 AS a WHERE 1 = 0"), "No rows."),
    ):
        assert good(run(*words)) == hint + "\n"
        assert as_json(run(*words, "--json")) == []


def test_tables(run: Run, data: str) -> None:
    created = good(run("tables", "create", "t", data))
    assert created == "Table LUTHIER.PUBLIC.t: 4 rows, columns prompt, completion.\n"
    assert as_json(run("tables", "create", "t", data, "--replace", "--json"))["num_rows"] == 4
    assert "LUTHIER.PUBLIC.t" in good(run("tables", "list"))
    assert as_json(run("tables", "list", "--json"))[0]["columns"] == ["prompt", "completion"]
    assert good(run("tables", "drop", "t")) == "Dropped table LUTHIER.PUBLIC.t.\n"


def test_views(run: Run, faq: str) -> None:
    query = "SELECT question, answer FROM faq"
    made = good(run("views", "create", "v", query, "--column", "prompt", "--column", "completion", "--comment", "new"))
    assert made == "View LUTHIER.PUBLIC.v: columns prompt, completion.\n"
    assert "already exists" in refused(run("views", "create", "v", query), 5)
    again = as_json(run("views", "create", "v", query, "--replace", "--secure", "--json"))
    assert (again["is_secure"], again["columns"], again["reads"]) == (
        True,
        ["question", "answer"],
        ["LUTHIER.PUBLIC.FAQ"],
    )
    assert "LUTHIER.PUBLIC.v" in good(run("views", "list"))
    (shown,) = as_json(run("views", "list", "--json"))
    assert (shown["query"], shown["role"], "is_new" in shown) == (query, "ACCOUNTADMIN", False)
    assert good(run("grants", "add", "select", "view", "v", "--to", "public"))
    assert good(run("views", "drop", "v")) == "Dropped view LUTHIER.PUBLIC.v.\n"
    assert "No view LUTHIER.PUBLIC.v." in refused(run("views", "drop", "v"), 3)


def test_models(run: Run, tuned: str, tmp_path: Path) -> None:
    assert "LUTHIER.PUBLIC.tuned" in good(run("models", "list"))
    assert as_json(run("models", "show", tuned, "--json"))["rank"] == 8
    assert "sha256" in good(run("models", "show", tuned))
    assert "training_results.csv" in good(run("models", "artifacts", tuned))
    exported = good(run("models", "export", tuned, str(tmp_path / "out"))).splitlines()
    assert [Path(line).name for line in exported] == ["adapter_model.safetensors", "training_results.csv", "README.md"]
    assert all(Path(line).is_file() for line in exported)
    assert good(run("models", "drop", tuned)) == "Dropped model LUTHIER.PUBLIC.tuned.\n"
    assert "tiny" in good(run("base-models", "list"))
    assert {row["name"] for row in as_json(run("base-models", "list", "--json"))} >= {"tiny"}


def test_complete(run: Run, engine: EchoEngine) -> None:
    assert good(run("complete", "tiny", "how are you")) == "base: how are you\n"
    assert good(run("complete", "tiny", "how are you", "--stream", "--max-tokens", "2")) == "base: how\n"
    answer = as_json(
        run("complete", "tiny", "a b", "--json", "--system", "be kind", "--temperature", "0.5", "--top-p", "0.9")
    )
    assert answer["choices"] == [{"messages": "base: a b"}]
    assert answer["usage"]["total_tokens"] == 5
    request = engine.requests[-1]
    assert (request.temperature, request.top_p, len(request.messages or [])) == (0.5, 0.9, 2)


def test_a_prompt_from_stdin(run: Run) -> None:
    assert good(run("complete", "tiny", "-", stdin="how are you")) == "base: how are you\n"


def test_sql(run: Run, faq: str, tmp_path: Path) -> None:
    assert "question 0" in good(run("sql", "SELECT min(question) AS first FROM faq"))
    assert as_json(run("sql", "SELECT 1 AS a", "--json")) == [{"a": 1}]
    assert "[/red] :smile: [b]" in good(run("sql", "SELECT '[/red] :smile: [b]' AS a"))
    file = tmp_path / "a.sql"
    file.write_text("SELECT 2 AS a;\n")
    assert as_json(run("sql", "-f", str(file), "--json")) == [{"a": 2}]
    assert "not both" in refused(run("sql", "SELECT 1", "-f", str(file)), 2)


def test_sql_from_stdin_goes_on_after_an_error(run: Run) -> None:
    result = run("sql", stdin="SELECT 11 AS a;\nSELECT nothing;\n\nSELECT\n22 AS a;\nSELECT 33 AS a")
    assert all(number in result.stdout for number in ("11", "22", "33"))
    assert result.stderr.count("Error: ") == 1
    assert "nothing" in result.stderr


def test_usage(run: Run, tuned: str) -> None:
    good(run("complete", tuned, "a b"))
    assert "0.000006" in good(run("usage", "finetuning"))
    assert "CHAT_COMPLETIONS" in good(run("usage", "completions"))
    (row,) = as_json(run("usage", "completions", "--group-by", "model", "--group-by", "day", "--json"))
    assert (row["model"], row["records"]) == ("LUTHIER.PUBLIC.tuned", 1)
    assert "training" in good(run("usage", "credits", "--group-by", "base_model"))
    assert good(run("usage", "completions", "--until", "2020-01-01")) == "No usage in this time.\n"
    assert len(as_json(run("usage", "completions", "--since", "2020-01-01T00:00", "--json"))) == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("finetune", "describe", "ft_x"), 3, "No fine-tuning job 'ft_x'"),
        (("complete", "nobody", "a"), 3, "Unknown model 'nobody'"),
        (("complete", "nobody", "a", "--stream"), 3, "Unknown model 'nobody'"),
        (("complete", "tiny", "a", "--temperature", "3"), 2, "temperature"),
        (("models", "drop", "nobody"), 3, "No model"),
        (("tables", "drop", "nobody"), 3, "No table"),
        (("tables", "create", "t", "gone.csv"), 2, "No file gone.csv"),
        (("tables", "create", "faq", "FILE"), 5, "--replace"),
        (("sql", "DELETE FROM faq"), 2, "Only a query"),
        (("usage", "credits", "--since", "soon"), 2, "'soon' is no date or time"),
        (("finetune", "create", "a", "--base-model", "b", "--training-data", "SELECT 1"), 3, "Unknown base model 'b'"),
        (("finetune", "create", "a", "--base-model", "tiny", "--training-data", "gone.csv"), 2, "No file gone.csv"),
        (
            ("finetune", "create", "a", "--base-model", "tiny", "--training-data", "SELECT 1", "--set", "x"),
            2,
            "key=value",
        ),
        (
            ("finetune", "create", "a", "--base-model", "tiny", "--training-data", "SELECT 1", "--set", "x=y"),
            2,
            "Unknown option 'x'",
        ),
        (
            ("finetune", "create", "a", "--base-model", "tiny", "--training-data", "SELECT 1", "--max-epochs", "0"),
            2,
            "max_epochs = 0",
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_errors_are_one_line_and_a_status(
    run: Run, faq: str, data: str, words: tuple[str, ...], status: int, message: str
) -> None:
    given = [data if word == "FILE" else word for word in words]
    assert message in refused(run(*given), status)


def test_a_wrong_key_and_no_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_API_KEY", "lt_wrong")
    assert "not known here" in refused(run("models", "list"), 4)
    monkeypatch.delenv("LUTHIER_API_KEY")
    assert "LUTHIER_API_KEY" in refused(run("models", "list"), 4)


def test_a_server_that_is_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_URL", "http://127.0.0.1:9")
    assert "Is it up?" in refused(run("models", "list"), 6)
    assert "Is it up?" in refused(run("complete", "tiny", "a", "--stream"), 6)


def test_an_engine_that_dies(run: Run, engine: EchoEngine) -> None:
    engine.dies_after = 1
    assert "stopped" in refused(run("complete", "tiny", "a"), 6)


def test_help_and_version(run: Run) -> None:
    assert "finetune" in good(run("--help"))
    assert good(run("--version")).startswith("luthier, version ")
    assert run("finetune", "create").exit_code == 2
    assert run("nothing").exit_code == 2
