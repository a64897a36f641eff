"""Ray's own way to serve a language model, as its documentation has it, until the process is killed.

python -m benchmarks.serve_ray PORT NAME ARGUMENTS: vLLM's engine arguments as JSON. It takes no adapters: those must
lie in a cloud's storage.
"""

import json
import sys

import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app

LOGICAL_CPUS = 16
"""So that all of its replicas find a place, whatever the machine has."""


def main(port: int, name: str, arguments: str) -> None:
    engine = json.loads(arguments)
    ray.init(num_cpus=LOGICAL_CPUS, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": engine.pop("model")},
        accelerator_config={"kind": "cpu"},
        engine_kwargs=engine,
    )
    serve.run(build_openai_app({"llm_configs": [config]}), blocking=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
