"""Adapters that were trained elsewhere: by HTTP, the client and the command; refused whole, or there and answering."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from starlette.testclient import TestClient

import luthier
from luthier.cli.main import main
from luthier.errors import Conflict, InvalidInput
from luthier.platform.base_models import load_catalog
from luthier.platform.names import parse_name
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.storage import file_sha256
from luthier.platform.weights.artifacts import place
from luthier.platform.weights.importing import Imports, Origin
from tests.factories import ADMIN, BASE_MODEL, KEY
from tests.flow.conftest import create, error_of
from tests.tiny_adapter import build_adapter, change_settings, change_weights
from tests.waiting import wait_for

MODELS = "/luthier/v1/models"
NAMES = ("adapter_config.json", "adapter_model.safetensors")


def send(api: TestClient, folder: Path, names: tuple[str, ...] = NAMES, **params: Any) -> Any:
    files = [("files", (name, (folder / name).read_bytes())) for name in names]
    return api.post(MODELS, params={"name": "mine", "base_model": "tiny", **params}, files=files)


def stored(settings: Settings) -> list[Path]:
    """Every file and folder in storage beside the empty ones."""
    return [path for path in settings.storage.rglob("*") if path.is_file() or path.suffix == ".part"]


def test_an_adapter_becomes_a_model(api: TestClient, adapter: Path, settings: Settings) -> None:
    response = send(api, adapter)
    assert response.status_code == 201, response.text
    model = response.json()
    told = [model[key] for key in ("model", "version", "job_id", "base_model", "rank", "method", "task_type")]
    assert told == ["LUTHIER.PUBLIC.mine", 1, None, "tiny", 8, "lora", "CHAT_COMPLETION"]
    assert "path" not in model
    assert api.get(MODELS).json() == {"models": [model]}
    assert api.get(f"{MODELS}/mine").json() == model
    (folder,) = (settings.storage / "adapters").iterdir()
    assert folder.name == model["sha256"]
    assert {file.name for file in folder.iterdir()} == {*NAMES, "luthier.json"}
    manifest = json.loads((folder / "luthier.json").read_text())
    assert manifest["imported"] is True
    assert manifest["base_model"] == {"name": "tiny", "hf": "tests/tiny", "revision": "0", "licence": "none"}
    assert manifest["sha256"] == {name: file_sha256(adapter / name) for name in NAMES}
    assert list((settings.storage / "uploads").iterdir()) == []


def test_it_answers_is_exported_and_is_dropped(api: TestClient, adapter: Path) -> None:
    send(api, adapter, task_type="INSTRUCTION_FINETUNE")
    body = {"model": "mine", "messages": [{"role": "user", "content": "a b"}]}
    answer = api.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "LUTHIER.PUBLIC.mine: a b"
    assert api.get(f"{MODELS}/mine").json()["task_type"] == "INSTRUCTION_FINETUNE"
    assert "LUTHIER.PUBLIC.mine" in {model["id"] for model in api.get("/v1/models").json()["data"]}
    names = [each["name"] for each in api.get(f"{MODELS}/mine/artifacts").json()["artifacts"]]
    assert names == [*NAMES, "luthier.json"]
    weights = api.get(f"{MODELS}/mine/artifacts/adapter_model.safetensors").content
    assert weights == (adapter / NAMES[1]).read_bytes()
    assert api.delete(f"{MODELS}/mine").status_code == 200
    assert api.get(MODELS).json() == {"models": []}
    assert api.get("/luthier/v1/usage/finetuning").json() == {"usage": []}


def test_a_run_goes_on_from_it(api: TestClient, faq: str, adapter: Path) -> None:
    send(api, adapter)
    asked = {"lora_rank": 8, "lora_alpha": 16, "continue_from": "mine"}
    assert create(api, model="next", options=asked).status_code == 201
    for options, words in (
        ({"lora_rank": 16}, "Give lora_rank = 8"),
        ({"lora_alpha": 8}, "Give lora_alpha = 16"),
        ({"lora_targets": ["q_proj"]}, "Give lora_targets = "),
    ):
        response = create(api, model="other", options={**asked, **options})
        assert words in error_of(response, 400, "invalid_parameter_value")


def test_the_same_again_is_the_first_answer(
    api: TestClient, adapter: Path, settings: Settings, registry: Registry
) -> None:
    def number(name: str) -> int:
        return registry.models.get(ADMIN, parse_name(f"luthier.public.{name}", "", "")).number

    first = send(api, adapter)
    again = send(api, adapter, name="luthier.public.MINE")
    assert (again.status_code, again.json()) == (201, first.json())
    other_name = send(api, adapter, name="other").json()
    assert other_name["sha256"] == first.json()["sha256"]
    before = number("other")
    assert before != number("mine")
    assert len(list((settings.storage / "adapters").iterdir())) == 1
    api.delete(f"{MODELS}/mine")
    send(api, adapter)
    assert number("mine") > before


def test_the_same_again_mends_its_files(api: TestClient, adapter: Path, settings: Settings) -> None:
    first = send(api, adapter).json()
    weights = settings.storage / "adapters" / first["sha256"] / NAMES[1]
    weights.unlink()
    assert send(api, adapter).json() == first
    assert weights.read_bytes() == (adapter / NAMES[1]).read_bytes()


def test_who_leaves_spoils_nothing(
    app: FastAPI, adapter: Path, settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files stay until the import ends, and go then."""
    began, may_go_on = threading.Event(), threading.Event()

    def place_late(*given: Any) -> Path:
        began.set()
        assert may_go_on.wait(20)
        return place(*given)

    async def leave() -> None:
        files = [("files", (name, (adapter / name).read_bytes())) for name in NAMES]
        headers = {"Authorization": f"Bearer {KEY}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            sent = asyncio.create_task(client.post(MODELS, params={"name": "mine", "base_model": "tiny"}, files=files))
            assert await asyncio.to_thread(began.wait, 20)
            sent.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sent
            may_go_on.set()

    monkeypatch.setattr("luthier.platform.weights.importing.place", place_late)
    asyncio.run(leave())
    wait_for(lambda: registry.models.show(ADMIN))
    wait_for(lambda: not list((settings.storage / "uploads").iterdir()))
    model = registry.models.get(ADMIN, parse_name("LUTHIER.PUBLIC.mine", "", ""))
    assert {file.name for file in Path(model.path).iterdir()} == {*NAMES, "luthier.json"}


def test_a_name_that_is_taken(api: TestClient, faq: str, adapter: Path, settings: Settings) -> None:
    send(api, adapter)
    before = stored(settings)
    change_weights(adapter, lambda tensors: tensors.update({name: 2 * each for name, each in tensors.items()}))
    message = error_of(send(api, adapter), 409, "conflict")
    assert message == (
        "Model LUTHIER.PUBLIC.mine is there already. Choose another name, drop it (luthier models drop), "
        "or make a new version of it (--new-version, option new_version)."
    )
    job = create(api, model="made").json()
    assert f"Job {job['id']} is making a model" in error_of(send(api, adapter, name="made"), 409, "conflict")
    assert set(stored(settings)) - set(before) == set((settings.storage / "jobs" / job["id"]).iterdir())
    create_again = create(api, model="mine")
    assert "is there already" in error_of(create_again, 409, "conflict")


def test_the_same_adapter_on_two_base_models(
    registry: Registry, settings: Settings, adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Each has a folder of its own, whose manifest tells which."""
    row = BASE_MODEL.format(path=tiny_model).replace('"tiny"', '"twin"')
    (settings.home / "base_models" / "twin.toml").write_text(row)
    imports = Imports(settings, load_catalog(settings), registry)
    for base in ("tiny", "twin"):
        folder = Path(shutil.copytree(adapter, tmp_path / base))
        model = imports.import_model(
            ADMIN, parse_name(f"LUTHIER.PUBLIC.{base}_m", "", ""), Origin(base_model=base), folder
        )
        manifest = json.loads((settings.storage / "adapters" / model.sha256 / "luthier.json").read_text())
        assert manifest["base_model"]["name"] == base


@pytest.fixture
def plain(settings: Settings, tiny_model: Path) -> str:
    """A base model without a chat template, of the same shapes."""
    row = BASE_MODEL.format(path=tiny_model).replace('"tiny"', '"plain"').replace("tests/tiny", "tests/plain")
    tasks = 'tasks = ["INSTRUCTION_FINETUNE", "CONTINUED_PRETRAIN"]\n'
    (settings.home / "base_models" / "plain.toml").write_text(row.replace("max_rank", f"{tasks}max_rank"))
    return "plain"


def test_the_task_is_one_that_the_base_model_takes(plain: str, api: TestClient, adapter: Path) -> None:
    assert send(api, adapter, base_model=plain).json()["task_type"] == "INSTRUCTION_FINETUNE"
    other = send(api, adapter, name="other", base_model=plain, task_type="CONTINUED_PRETRAIN")
    assert other.json()["task_type"] == "CONTINUED_PRETRAIN"
    for task in ("CHAT_COMPLETION", "DPO"):
        message = error_of(send(api, adapter, base_model=plain, task_type=task), 400, "invalid_parameter_value")
        taken = "INSTRUCTION_FINETUNE, CONTINUED_PRETRAIN"
        assert message == f"Option task_type = {task}: base model plain takes {taken}."


@pytest.mark.parametrize("named", ["tiny", "tests/tiny", "TINY"])
def test_the_settings_may_name_the_base_model(api: TestClient, adapter: Path, named: str) -> None:
    change_settings(adapter, base_model_name_or_path=named)
    files = [("files", (name, (adapter / name).read_bytes())) for name in NAMES]
    response = api.post(MODELS, params={"name": "mine"}, files=files)
    assert (response.status_code, response.json()["base_model"]) == (201, "tiny")


@pytest.mark.parametrize("named", ["tests/tiny", "qwen3-8b", "Qwen/Qwen3-8B"])
def test_settings_that_name_another_base_model(plain: str, api: TestClient, adapter: Path, named: str) -> None:
    """The shapes may fit all the same."""
    change_settings(adapter, base_model_name_or_path=named)
    message = error_of(send(api, adapter, base_model=plain), 400, "invalid_parameter_value")
    meant = "tiny" if "tiny" in named else "qwen3-8b"
    assert f'base_model_name_or_path = "{named}": that is {meant}, not plain' in message


@pytest.mark.parametrize("named", ["/home/me/tiny", "tests/plain", "PLAIN", None])
def test_settings_that_contradict_nothing(plain: str, api: TestClient, adapter: Path, named: Any) -> None:
    change_settings(adapter, base_model_name_or_path=named)
    assert send(api, adapter, base_model=plain).json()["base_model"] == "plain"


@pytest.mark.parametrize("named", ["/home/me/tiny", None, ["tiny"]])
def test_settings_that_name_no_base_model_of_ours(
    api: TestClient, adapter: Path, settings: Settings, named: Any
) -> None:
    change_settings(adapter, base_model_name_or_path=named)
    files = [("files", (name, (adapter / name).read_bytes())) for name in NAMES]
    message = error_of(api.post(MODELS, params={"name": "mine"}, files=files), 400, "invalid_parameter_value")
    assert "base_model_name_or_path" in message
    assert "Give base_model." in message
    assert stored(settings) == []


Spoil = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: change_settings(folder, use_dora=True), "use_dora = true"),
        (lambda folder: change_settings(folder, r=17), "r = 17"),
        (lambda folder: change_settings(folder, bias="all"), 'bias = "all"'),
        (lambda folder: (folder / NAMES[0]).write_text("{"), "adapter_config.json is not valid JSON"),
        (lambda folder: (folder / NAMES[1]).write_bytes(b"PK\3\4"), "is no safetensors file"),
        (lambda folder: change_weights(folder, lambda tensors: tensors.popitem()), "has no lora_"),
        (lambda folder: change_weights(folder, lambda tensors: tensors.clear()), "holds no weights"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_named_and_nothing_is_kept(
    api: TestClient, adapter: Path, settings: Settings, spoil: Spoil, words: str
) -> None:
    spoil(adapter)
    message = error_of(send(api, adapter), 400, "invalid_parameter_value")
    assert words in message
    assert str(settings.home) not in message
    assert api.get(MODELS).json() == {"models": []}
    assert stored(settings) == []
    assert list((settings.storage / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (NAMES[:1], "adapter_model.safetensors is missing"),
        (NAMES[1:], "adapter_config.json is missing"),
        ((*NAMES, "README.md"), "README.md is no file of an adapter"),
        ((NAMES[0], "adapter_model.bin"), "adapter_model.bin is a pickle"),
        ((*NAMES, NAMES[0]), "adapter_config.json is sent twice"),
        ((), "multipart/form-data"),
    ],
)
def test_files_that_are_refused(
    api: TestClient, adapter: Path, settings: Settings, names: tuple[str, ...], words: str
) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04")
    (adapter / "README.md").write_text("")
    assert words in error_of(send(api, adapter, names), 400, "invalid_parameter_value")
    assert stored(settings) == []


@pytest.mark.parametrize(
    ("params", "status", "code", "words"),
    [
        ({"name": "a b"}, 400, "invalid_parameter_value", "double quotes"),
        ({"base_model": "tinny"}, 404, "not_found", "Do you mean tiny or"),
        ({"base_model": "smollm2-135m"}, 409, "base_model_not_fetched", "`luthier base-models fetch smollm2-135m`"),
        ({"base_model": "llama3.1-8b-base", "task_type": "DPO"}, 400, "invalid_parameter_value", "takes INSTRUCTION"),
        ({"base_model": "gpt-oss-20b"}, 400, "invalid_parameter_value", "gpt-oss-20b takes no adapters"),
        ({"base_model": "llama2-7b"}, 410, "base_model_retired", "was retired"),
        ({"task_type": "chat"}, 400, "invalid_parameter_value", "task_type"),
    ],
)
def test_parameters_that_are_refused(
    api: TestClient, adapter: Path, settings: Settings, params: dict[str, str], status: int, code: str, words: str
) -> None:
    (adapter / NAMES[0]).write_text("{")
    assert words in error_of(send(api, adapter, **params), status, code)
    assert not (settings.storage / "uploads").exists()


def test_a_name_that_a_job_has_is_refused_before_files_come(
    api: TestClient, faq: str, tuned: str, adapter: Path, settings: Settings
) -> None:
    (settings.storage / "uploads").rmdir()
    create(api, model="made")
    for name in (tuned, "made"):
        error_of(send(api, adapter, name=name), 409, "conflict")
    assert not (settings.storage / "uploads").exists()


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length known", "chunked"])
def test_an_oversized_adapter(api: TestClient, adapter: Path, settings: Settings, is_chunked: bool) -> None:
    head = b'--xyz\r\nContent-Disposition: form-data; name="files"; filename="adapter_model.safetensors"\r\n\r\n'

    def parts() -> Iterator[bytes]:
        yield head
        for _ in range(3):
            yield b"x" * (1 << 20)

    content = parts() if is_chunked else b"".join(parts())
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    response = api.post(MODELS, params={"name": "mine"}, content=content, headers=headers)
    assert "limit of 2 MiB" in error_of(response, 413, "request_too_large")
    assert stored(settings) == []
    assert list((settings.storage / "uploads").iterdir()) == []


def test_no_key_no_upload(api: TestClient, adapter: Path, settings: Settings) -> None:
    api.headers["Authorization"] = "Bearer lt_wrong"
    error_of(send(api, adapter), 401, "invalid_api_key")
    assert not settings.storage.exists() or stored(settings) == []


# the client and the command


@pytest.fixture
def client(server: str) -> luthier.Client:
    return luthier.Client(server, KEY)


def test_the_client_imports_what_it_exported(
    client: luthier.Client, adapter: Path, tmp_path: Path, tiny_model: Path
) -> None:
    first = client.models.import_("mine", adapter, base_model="tiny")
    files = client.models.export("mine", tmp_path / "out")
    again = client.models.import_("again", tmp_path / "out", base_model="tiny", task_type="DPO")
    assert (again["sha256"], again["task_type"]) == (first["sha256"], "DPO")
    assert [file.name for file in files] == [*NAMES, "luthier.json", "README.md"]
    with pytest.raises(Conflict, match="is there already"):
        client.models.import_("mine", build_adapter(tiny_model, tmp_path / "other", r=4), "tiny")


def test_folders_that_are_no_adapter(client: luthier.Client, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No folder"):
        client.models.import_("mine", tmp_path / "nothing")
    shutil.move(adapter / NAMES[1], adapter / "adapter_model.bin")
    with pytest.raises(InvalidInput, match=r"adapter_model\.bin is a pickle"):
        client.models.import_("mine", adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(InvalidInput, match=r"adapter_model\.safetensors is missing"):
        client.models.import_("mine", adapter)


@pytest.mark.parametrize("put", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "dangling link"])
def test_what_is_no_file_is_missing(client: luthier.Client, adapter: Path, put: Callable[[Path], Any]) -> None:
    (adapter / NAMES[1]).unlink()
    put(adapter / NAMES[1])
    with pytest.raises(InvalidInput, match=r"adapter_model\.safetensors is missing"):
        client.models.import_("mine", adapter)


def test_the_command(server: str, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["models", *words])

    done = run("import", str(adapter), "mine", "--base-model", "tiny")
    assert (done.exit_code, done.stdout) == (0, "Model LUTHIER.PUBLIC.mine: version 1, rank 8 on tiny.\n")
    assert "imported" in run("versions", "mine").stdout
    assert json.loads(run("list", "--json").stdout)[0]["job_id"] is None
    assert json.loads(run("show", "mine", "--json").stdout)["rank"] == 8
    same = json.loads(run("import", str(adapter), "mine", "--base-model", "tiny", "--json").stdout)
    assert same["version"] == 1
    refused = run("import", str(adapter), "mine", "--base-model", "tiny", "--task-type", "dpo")
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert "is there already" in refused.stderr
    assert run("drop", "mine").exit_code == 0
