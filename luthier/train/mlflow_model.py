"""A tuned model as a model of MLflow: the published files as they are, and what its transformers flavour loads them by.

An adapter finds its base where it lies on this cluster; elsewhere `mlflow.transformers.load_model` is told where:
`base_model_path`. Needs a server of MLflow 3.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from luthier.platform.base_models import BaseModel
from luthier.platform.frozen import Frozen
from luthier.platform.jobs import FinishedModel
from luthier.platform.options import Method
from luthier.platform.weights.artifacts import MANIFEST
from luthier.train.publish import ANSWERS, RESULTS, copy_tokenizer

NAME = "model"
"""In its run."""
PACKAGES = ("torch", "transformers", "peft", "accelerate")
PYTHON_ENV, REQUIREMENTS = "python_env.yaml", "requirements.txt"


class Tuned(Frozen):
    """What a run has made, and of what."""

    made: FinishedModel
    base: BaseModel
    base_dir: Path

    @property
    def weights_folder(self) -> str:
        """MLflow's own names."""
        return "model" if self.made.method is Method.FULL else "peft"


def log_model(client: Any, run_id: str, tuned: Tuned, params: dict[str, str], registered_as: str) -> None:
    """Into a run; under a registered name it is the next version. Called again after an error, it is the same model."""
    published = Path(tuned.made.path)
    for file in (published / name for name in (MANIFEST, RESULTS, ANSWERS)):
        if file.is_file():
            client.log_artifact(run_id, str(file))
    run = client.get_run(run_id)
    logged = _unfinished(client, run) or _created(client, run, tuned, params)
    try:
        with TemporaryDirectory() as folder:
            _describe(tuned, Path(folder), logged)
            client.log_model_artifacts(logged.model_id, folder)
        client.log_model_artifacts(logged.model_id, str(published), tuned.weights_folder)
        client.finalize_logged_model(logged.model_id, "READY")
        if registered_as:
            _register(client, logged, registered_as)
    except Exception:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise


def _unfinished(client: Any, run: Any) -> Any | None:
    """A model of the run that an error left."""
    models = [client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]
    return next((model for model in models if model.status != "READY"), None)


def _created(client: Any, run: Any, tuned: Tuned, params: dict[str, str]) -> Any:
    from mlflow.entities import LoggedModelOutput

    run_id, tags = run.info.run_id, {"luthier.sha256": tuned.made.sha256}
    logged = client.create_logged_model(run.info.experiment_id, NAME, run_id, tags, params)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    return logged


def _describe(tuned: Tuned, folder: Path, logged: Any) -> None:
    """Writes all but the weights."""
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.transformers.llm_inference_utils import infer_signature_from_llm_inference_task

    task = "llm/v1/completions" if tuned.made.task_type.is_plain else "llm/v1/chat"
    model = Model(
        artifact_path=logged.artifact_location,
        run_id=logged.source_run_id,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        signature=infer_signature_from_llm_inference_task(task),
        metadata={"task": task, "base_model": tuned.base.hf, "base_model_revision": tuned.base.revision},
    )
    model.add_flavor("transformers", **_flavour(tuned), inference_task=task)
    pyfunc.add_to_model(model, "mlflow.transformers", python_env=PYTHON_ENV)
    model.save(str(folder / "MLmodel"))
    (folder / PYTHON_ENV).write_text(f"python: {platform.python_version()}\ndependencies:\n- -r {REQUIREMENTS}\n")
    (folder / REQUIREMENTS).write_text("\n".join(_requirements()))
    tokenizer = folder / "components" / "tokenizer"
    tokenizer.mkdir(parents=True)
    copy_tokenizer(tuned.base_dir, tokenizer)


def _flavour(tuned: Tuned) -> dict[str, Any]:
    """What mlflow.transformers.save_model would write, which wants all weights in memory for it."""
    config = json.loads((tuned.base_dir / "config.json").read_text())
    weights = {"model_binary": tuned.weights_folder}
    if tuned.made.method is not Method.FULL:
        weights = {"peft_adaptor": tuned.weights_folder, "local_base_model_path": str(tuned.base_dir)}
    return {
        "task": "text-generation",
        "instance_type": "TextGenerationPipeline",
        "pipeline_model_type": config["architectures"][0],
        "source_model_name": tuned.base.hf,
        "components": ["tokenizer"],
        "tokenizer_type": "PreTrainedTokenizerFast",
        "transformers_version": version("transformers"),
        **weights,
    }


def _requirements() -> list[str]:
    from mlflow import __version__

    return [f"mlflow=={__version__}", *(f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES)]


def _register(client: Any, logged: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.create_model_version(
        name, logged.model_uri, logged.source_run_id, await_creation_for=0, model_id=logged.model_id
    )
