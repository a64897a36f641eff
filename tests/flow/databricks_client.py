"""Run by an interpreter that has Databricks' clients and nothing of ours: asks a server, prints what they make of it.

python databricks_client.py URL KEY
"""

import json
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import openai
from databricks.sdk import WorkspaceClient

MESSAGES: list[Any] = [{"role": "user", "content": "how are you"}]

workspace = WorkspaceClient(host=sys.argv[1], token=sys.argv[2])


def databricks_openai() -> Any:
    """Its clients' module alone: the package imports all of Unity Catalog."""
    package = find_spec("databricks_openai")
    assert package
    assert package.origin
    spec = spec_from_file_location("clients", Path(package.origin).with_name("utils") / "clients.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(client: Any) -> dict[str, Any]:
    chat = client.chat.completions.create(model="tuned", messages=MESSAGES)
    stream = client.chat.completions.create(model="luthier.public.tuned", messages=MESSAGES, max_tokens=2, stream=True)
    completion = client.completions.create(model="tiny", prompt="hello")
    try:
        client.chat.completions.create(model="nobody", messages=MESSAGES)
        unknown: list[Any] = []
    except openai.APIStatusError as error:
        unknown = [type(error).__name__, error.code]
    return {
        "chat": chat.choices[0].message.content,
        "chat, streamed": "".join(chunk.choices[0].delta.content or "" for chunk in stream),
        "completion": completion.choices[0].text,
        "unknown": unknown,
    }


clients = {
    "get_open_ai_client": workspace.serving_endpoints.get_open_ai_client(),
    "DatabricksOpenAI": databricks_openai().DatabricksOpenAI(workspace_client=workspace),
}
print(json.dumps({name: asked(client) for name, client in clients.items()}))
