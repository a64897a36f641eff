"""The catalog: what the two seed systems had is there with their limits; a bad file is refused with its line."""

from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.errors import Conflict, InvalidInput, NotFound
from luthier.platform.base_models import (
    BaseModel,
    Catalog,
    HubSource,
    base_model_dir,
    check_can_serve,
    check_can_tune,
    is_retired,
    load_catalog,
    retirement_warning,
)
from luthier.platform.frozen import read_toml
from luthier.platform.options import Method
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.tasks import TaskType
from tests.factories import BASE_MODEL

SNOWFLAKE = {  # rows for 1 and for 3 epochs, in thousands; context window, prompt and completion in k tokens
    "llama3-8b": (186, 62, 8, 6, 2),
    "llama3-70b": (21, 7, 8, 6, 2),
    "llama3.1-8b": (150, 50, 24, 20, 4),
    "llama3.1-70b": (13.5, 4.5, 8, 6, 2),
    "mistral-7b": (45, 15, 32, 28, 4),
    "mixtral-8x7b": (27, 9, 32, 28, 4),
}
DATABRICKS = {  # context length and licence
    "databricks/dbrx-base": (32768, "Databricks"),
    "databricks/dbrx-instruct": (32768, "Databricks"),
    "meta-llama/Llama-3.2-1B": (131072, "Llama-3.2"),
    "meta-llama/Llama-3.2-1B-Instruct": (131072, "Llama-3.2"),
    "meta-llama/Llama-3.2-3B": (131072, "Llama-3.2"),
    "meta-llama/Llama-3.2-3B-Instruct": (131072, "Llama-3.2"),
    "meta-llama/Meta-Llama-3.1-8B": (131072, "Llama-3.1"),
    "meta-llama/Meta-Llama-3.1-8B-Instruct": (131072, "Llama-3.1"),
    "meta-llama/Meta-Llama-3.1-70B": (131072, "Llama-3.1"),
    "meta-llama/Meta-Llama-3.1-70B-Instruct": (131072, "Llama-3.1"),
    "meta-llama/Meta-Llama-3.1-405B": (131072, "Llama-3.1"),
    "meta-llama/Meta-Llama-3.1-405B-Instruct": (131072, "Llama-3.1"),
    "mistralai/Mistral-7B-v0.1": (32768, "Apache-2.0"),
    "mistralai/Mistral-7B-Instruct-v0.2": (32768, "Apache-2.0"),
    "mistralai/Mixtral-8x7B-v0.1": (32768, "Apache-2.0"),
    "meta-llama/Meta-Llama-3-8B-Instruct": (8192, "Llama-3"),
    "meta-llama/Meta-Llama-3-70B-Instruct": (8192, "Llama-3"),
}
RETIRED = {
    "meta-llama/Meta-Llama-3-8B": (8192, "Llama-3"),
    "meta-llama/Meta-Llama-3-70B": (8192, "Llama-3"),
    **{
        f"meta-llama/Llama-2-{size}{kind}-hf": (4096, "Llama-2")
        for size in ("7b", "13b", "70b")
        for kind in ("", "-chat")
    },
    **{
        f"codellama/CodeLlama-{size}{kind}-hf": (16384, "Llama-2")
        for size in ("7b", "13b", "34b")
        for kind in ("", "-Instruct", "-Python")
    },
}
AT_WORK = {"mixtral-8x7b": 13, "qwen3-30b-a3b": 3, "gpt-oss-20b": 4, "gpt-oss-120b": 5, "dbrx": 36}
"""Billions of parameters that work on a token, where those are not all."""
CLASSES = {"small": 1, "lower_medium": 5, "medium": 10, "upper_medium": 50, "large": 100, "giant": 1000}
"""Billions of parameters that a price class stays below."""
GPU_BYTES = 80e9
LAST_DAY, NEXT_DAY = date(2025, 1, 7), date(2025, 1, 8)
FAMILY = """
licence = "none"
description = "Of a family."
price_class = "small"
engine.max_loras = 2
retired = { after = 2030-06-30, replacement = "tiny" }
rows = [
  { name = "one", hf = "a/one", context_window = 32, rows_per_epoch = 10, retired.replacement = "two" },
  { name = "two", hf = "a/two", context_window = 64, rows_per_epoch = 20, licence = "own", engine.max_num_seqs = 2 },
]
"""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The catalog without a home's additions."""
    return load_catalog(Settings(home=tmp_path_factory.mktemp("home")))


def write(settings: Settings, text: str, name: str = "more.toml") -> Path:
    file = settings.home / "base_models" / name
    file.write_text(text)
    return file


def refusal(settings: Settings) -> str:
    with pytest.raises(InvalidInput) as caught:
        load_catalog(settings)
    return caught.value.message


def base_of(**given: object) -> BaseModel:
    row = {"name": "b", "hf": "a/b", "licence": "none", "description": "", "price_class": "small"}
    return BaseModel.model_validate({**row, "context_window": 512, "rows_per_epoch": 1, **given})


@pytest.mark.parametrize("name", SNOWFLAKE)
def test_snowflakes_base_models(shipped: Catalog, name: str) -> None:
    base, (rows, rows_of_three, window, prompt, completion) = shipped.get(name), SNOWFLAKE[name]
    assert (base.rows_per_epoch, base.rows_per_epoch // 3) == (rows * 1000, rows_of_three * 1000)
    assert base.context_window == base.engine.max_model_len == window * 1024
    assert (base.prompt_tokens, base.completion_tokens) == (prompt * 1024, completion * 1024)
    assert base.description
    check_can_tune(base, date.today(), TaskType.CHAT_COMPLETION, Method.LORA)


@pytest.mark.parametrize("name", DATABRICKS)
def test_databricks_base_models(shipped: Catalog, name: str) -> None:
    base = shipped.get(name)
    assert (base.max_context_length, base.licence) == DATABRICKS[name]
    check_can_tune(base, date.today(), TaskType.INSTRUCTION_FINETUNE)
    is_chat = "nstruct" in name
    assert (TaskType.CHAT_COMPLETION in base.tasks, TaskType.CONTINUED_PRETRAIN in base.tasks) == (is_chat, True)


@pytest.mark.parametrize("name", RETIRED)
def test_databricks_retired_base_models(shipped: Catalog, name: str) -> None:
    base = shipped.get(name)
    assert (base.max_context_length, base.licence) == RETIRED[name]
    assert base.retired
    assert base.retired.after == LAST_DAY
    replacement = shipped.get(base.retired.replacement)
    assert replacement.retired is None
    assert (replacement.tasks, replacement.max_context_length) == (base.tasks, 131072)
    check_can_tune(base, LAST_DAY)
    with pytest.raises(Conflict, match=f"{base.name} was retired after 2025-01-07. Use {replacement.name}"):
        check_can_tune(base, NEXT_DAY)


def test_one_model_is_one_row(shipped: Catalog) -> None:
    assert shipped.get("meta-llama/Meta-Llama-3.1-8B-Instruct") is shipped.get("llama3.1-8b")
    assert shipped.get("META-LLAMA/meta-llama-3-8b-instruct") is shipped.get("Llama3-8B")
    rows = list(shipped)
    spellings = [name.lower() for base in rows for name in (base.name, base.hf, *base.aliases)]
    assert len(spellings) == len(set(spellings))
    assert all(shipped.find(name) in rows for name in SNOWFLAKE)


def test_there_are_open_models_of_all_sizes(shipped: Catalog) -> None:
    seeds = {shipped.get(name).name for name in (*SNOWFLAKE, *DATABRICKS, *RETIRED)}
    sizes = sorted(base.parameters or 0 for base in shipped if base.name not in seeds)
    assert len(sizes) >= 25
    assert (sizes[0], sizes[-1] > 70e9) == (135_000_000, True)


def test_rows_say_where_they_are_from_and_fit_their_gpus(shipped: Catalog) -> None:
    """Weights in bfloat16 leave a third of the GPUs' memory to caches and activations; half the GPUs would not."""
    for base in shipped:
        assert base.figures_from, base.name
        assert base.parameters, base.name
        if base.methods:  # the others' weights have 4 bits
            room = 0.65 * GPU_BYTES * base.engine.tensor_parallel_size
            assert room >= 2 * base.parameters, base.name
            assert base.engine.tensor_parallel_size == 1 or room / 2 < 2 * base.parameters, base.name
            assert base.train_gpus == base.engine.tensor_parallel_size


def test_prices_go_by_size(shipped: Catalog) -> None:
    for base in shipped:
        billions = AT_WORK.get(base.name.removesuffix("-base").removesuffix("-instruct"), (base.parameters or 0) / 1e9)
        assert base.price_class == next(name for name, most in CLASSES.items() if billions < most), base.name


def test_the_home_adds_to_the_catalog(settings: Settings, shipped: Catalog, tmp_path: Path) -> None:
    catalog = load_catalog(settings)
    assert {base.name for base in catalog} == {"tiny", *(base.name for base in shipped)}
    assert "tiny" in catalog
    assert base_model_dir(settings, catalog.get("tiny")) == tmp_path / "no-weights"
    fetched = base_model_dir(settings, catalog.get("smollm2-135m"))
    assert fetched.parent == settings.cache / "base_models"


def test_a_file_of_many_rows(settings: Settings) -> None:
    write(settings, FAMILY)
    one, two = (load_catalog(settings).get(name) for name in ("one", "a/TWO"))
    assert (one.licence, one.rows_per_epoch, two.licence, two.rows_per_epoch) == ("none", 10, "own", 20)
    assert [(base.engine.max_loras, base.engine.max_num_seqs) for base in (one, two)] == [(2, 64), (2, 2)]
    assert [base.retired and base.retired.replacement for base in (one, two)] == ["two", "tiny"]


def test_a_row_has_defaults() -> None:
    base = base_of(context_window=65536, engine={"tensor_parallel_size": 4})
    assert (base.revision, base.source, base.tasks) == ("main", HubSource(), tuple(TaskType))
    assert (base.max_context_length, base.prompt_tokens, base.completion_tokens) == (65536, 61440, 4096)
    assert (base.engine.max_model_len, base.train_gpus) == (65536, 4)
    own = base_of(completion_tokens=100, max_context_length=1024, train_gpus=2, engine={"max_model_len": 256})
    assert (own.prompt_tokens, own.max_context_length, own.train_gpus, own.engine.max_model_len) == (412, 1024, 2, 256)


@pytest.mark.parametrize(
    ("text", "count"), [("135M", 135 * 10**6), ("0.49B", 490 * 10**6), ("405B", 405 * 10**9), (7, 7)]
)
def test_parameters_are_written_as_on_model_cards(text: object, count: int) -> None:
    assert base_of(parameters=text).parameters == count


def test_a_name_wins_over_an_alias_and_that_over_a_hugging_face_name() -> None:
    rows = [base_of(name="a", hf="x", aliases=["y"]), base_of(name="x", hf="y"), base_of(name="z", hf="y")]
    catalog = Catalog({base.name: base for base in rows})
    assert (catalog.get("x").name, catalog.get("y").name) == ("x", "a")


def test_a_row_of_the_home_wins_over_a_shipped_one_of_the_same_hugging_face_name(settings: Settings) -> None:
    hf = "Qwen/Qwen3-0.6B"
    assert load_catalog(settings).get(hf).name == "qwen3-0.6b"
    write(settings, BASE_MODEL.format(path="x").replace("tests/tiny", hf).replace('"tiny"', '"mine"'))
    assert load_catalog(settings).get(hf).name == "mine"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("llama-3.1-8b", "Do you mean llama3.1-8b or "),
        ("Qwen/Qwen3-0.5B", "Do you mean Qwen/Qwen3-0.6B or "),
        ("tinny", "Do you mean tiny or "),
        ("\N{SNOWMAN}", "'\N{SNOWMAN}'. `luthier base-models list`"),
    ],
)
def test_an_unknown_base_model_names_the_nearest(settings: Settings, name: str, meant: str) -> None:
    with pytest.raises(NotFound) as caught:
        load_catalog(settings).get(name)
    assert caught.value.message.startswith(f"Unknown base model {name!r}")
    assert meant in caught.value.message
    assert caught.value.message.count(" or ") < 3


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("context_window = 512", "context_window = 0", 8, "context_window: Input should be greater than or equal to 1"),
        ('licence = "none"\n', "", 1, "licence: is missing"),
        ('name = "bad"', 'name = "a/b"', 2, "name: String should match pattern"),
        ("max_model_len", "max_len", 19, "engine.max_len: unknown key; do you mean max_model_len?"),
        ("max_model_len", "num_gpus = 2\nmax_model_len", 18, "engine: num_gpus is called tensor_parallel_size"),
        (
            "max_model_len",
            "resources.GPU = 2\nmax_model_len",
            18,
            "engine: resources are those that nodes are given by",
        ),
        ("licence =", "license =", 5, "license: unknown key; do you mean licence?"),
        ("max_rank = 16", "max_rank = 16\nsurprise = 1", 13, "surprise: unknown key; there are name, aliases, hf"),
        ('path = "x"', 'paths = "x"', 16, "source.paths: unknown key; do you mean path?"),
        ('path = "x"', 'url = "x"', 16, "source.url: unknown key; there are kind, path"),
        ('path = "x"', "", 14, "source.path: is missing"),
        ('kind = "path"', 'kind = "cloud"', 14, "source: Input tag 'cloud'"),
        ("prompt_tokens = 384", "prompt_tokens = 385", 1, "prompt_tokens and completion_tokens together are more"),
        ("max_rank = 16", 'tasks = [\n "DPO",\n "SFT",\n]', 14, "tasks.1: Input should be 'CHAT_COMPLETION'"),
        ('price_class = "small"', 'price_class = "tiny"', 7, "price_class: prices.toml has small, lower_medium"),
        ("max_rank = 16", "retired = { after = 2030-01-01 }", 12, "retired.replacement: is missing"),
        (
            "max_rank = 16",
            'retired = { after = 2030-01-01, replacement = "x" }',
            12,
            "retired.replacement: no base model",
        ),
        ('name = "bad"', "name = bad", 2, "not valid TOML: Invalid value"),
        ("max_model_len = 512\n", "max_model_len = [", 19, "not valid TOML:"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_key(
    settings: Settings, old: str, new: str, line: int, reason: str
) -> None:
    text = BASE_MODEL.format(path="x").replace('"tiny"', '"bad"')
    assert old in text
    file = write(settings, text.replace(old, new))
    assert refusal(settings).startswith(f"{file}:{line}: {reason}")


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("rows_per_epoch = 20", "rows_per_epoch = 0", 9, "rows_per_epoch: Input"),
        ("rows_per_epoch = 20, ", "", 9, "rows_per_epoch: is missing"),
        ("engine.max_num_seqs = 2", "engine.max_seq = 2", 9, "engine.max_seq: unknown key; do you mean max_num_seqs?"),
        ("licence =", "license =", 2, "license: unknown key"),
        ("engine.max_loras = 2", "engine.max_loras = 0", 5, "engine.max_loras: Input"),
        ('"tiny"', '"teeny"', 6, "retired.replacement: no base model 'teeny'"),
        ('replacement = "two"', 'replacement = "three"', 8, "retired.replacement: no base model 'three'"),
        ('price_class = "small"', 'price_class = "tiny"', 4, "price_class: prices.toml has"),
        ("rows = [", "rows = [ 1,", 7, "rows: write a list of rows"),
    ],
)
def test_a_bad_row_of_many_is_refused_with_its_line_and_key(
    settings: Settings, old: str, new: str, line: int, reason: str
) -> None:
    assert old in FAMILY
    file = write(settings, FAMILY.replace(old, new))
    assert refusal(settings).startswith(f"{file}:{line}: {reason}")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes(b'name = "\xe9"')
    with pytest.raises(InvalidInput, match=r"latin\.toml: not UTF-8"):
        read_toml(file, BaseModel)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"one"', '"two"', "{home}/a.toml:9: name: 'two' is a name of two in {home}/a.toml:8"),
        ('"one"', '"Tiny"', "{home}/tiny.toml:2: name: 'tiny' is a name of Tiny in {home}/a.toml:8"),
        (
            'hf = "a/one"',
            'aliases = ["TINY"], hf = ""',
            "{home}/tiny.toml:2: name: 'tiny' is a name of one in {home}/a.toml:8",
        ),
        (
            'hf = "a/one"',
            'aliases = ["Meta-Llama/meta-llama-3.1-8b"], hf = ""',
            "{home}/a.toml:8: aliases: 'Meta-Llama/meta-llama-3.1-8b' is a name of llama3.1-8b-base in {shipped}:",
        ),
    ],
    ids=["in one file", "in two", "an alias", "a shipped alias"],
)
def test_a_name_that_is_taken_is_refused_with_both_places(settings: Settings, old: str, new: str, message: str) -> None:
    write(settings, FAMILY.replace(old, new, 1), "a.toml")
    shipped = configs_dir() / "base_models" / "databricks_base.toml"
    assert refusal(settings).startswith(message.format(home=settings.home / "base_models", shipped=shipped))


def test_retirement_is_warned_of_and_comes() -> None:
    base = base_of(retired={"after": LAST_DAY, "replacement": "new"})
    assert retirement_warning(base, LAST_DAY) == "Base model b will be retired after 2025-01-07: move to new."
    assert not is_retired(base, LAST_DAY)
    check_can_serve(base, LAST_DAY)
    assert retirement_warning(base, NEXT_DAY) is None
    assert is_retired(base, NEXT_DAY)
    with pytest.raises(Conflict, match=r"Base model b was retired after 2025-01-07\. Use new instead"):
        check_can_serve(base, NEXT_DAY)


def test_a_base_model_without_retirement_stays() -> None:
    base = base_of()
    check_can_serve(base, date.max)
    check_can_tune(base, date.max, TaskType.DPO, Method.FULL)
    assert retirement_warning(base, date.max) is None


@pytest.mark.parametrize(
    ("row", "task", "method", "words"),
    [
        ({"tasks": ["DPO"]}, TaskType.CHAT_COMPLETION, None, "task_type = CHAT_COMPLETION: base model b takes DPO"),
        ({"methods": ["lora", "qlora"]}, None, Method.FULL, "method = full: base model b takes lora, qlora"),
        ({"methods": []}, None, None, "can be served here, not tuned"),
    ],
)
def test_what_a_base_model_cannot_be_tuned_for(
    row: dict[str, object], task: TaskType | None, method: Method | None, words: str
) -> None:
    base = base_of(**row)
    with pytest.raises(InvalidInput, match=words):
        check_can_tune(base, date.max, task, method)
    check_can_serve(base, date.max)


def test_a_base_model_that_is_not_instruction_tuned(shipped: Catalog) -> None:
    base = shipped.get("llama3.1-8b-base")
    check_can_tune(base, date.max, TaskType.CONTINUED_PRETRAIN)
    with pytest.raises(InvalidInput, match="takes INSTRUCTION_FINETUNE, CONTINUED_PRETRAIN"):
        check_can_tune(base, date.max, TaskType.CHAT_COMPLETION)


def test_replicas_and_their_defaults() -> None:
    one = base_of(engine={"max_num_seqs": 8}).engine
    assert (one.min_replicas, one.max_replicas, one.target_ongoing_requests) == (1, 1, 8)
    two = base_of(engine={"min_replicas": 2}).engine
    assert (two.min_replicas, two.max_replicas, two.target_ongoing_requests) == (2, 2, 64)
    with pytest.raises(ValidationError, match="max_replicas is less than min_replicas"):
        base_of(engine={"min_replicas": 2, "max_replicas": 1})


def test_each_sequence_takes_a_token_of_a_step() -> None:
    with pytest.raises(ValidationError, match="max_num_batched_tokens is less than max_num_seqs"):
        base_of(engine={"max_num_seqs": 8, "max_num_batched_tokens": 7})
