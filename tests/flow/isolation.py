"""What the isolation suite tries: each route with the bodies that name somebody else's objects."""

import json
from typing import Any, NamedTuple

from tests.flow.conftest import CHAT

V1 = "/luthier/v1"
MODEL = f"{V1}/models/{{name:object}}"
WORDS = b"prompt,completion\nmysecretquestion,mysecretanswer\n"
LINE = json.dumps(
    {"custom_id": "1", "method": "POST", "url": CHAT, "body": {"model": "tiny", "messages": []}, "note": "mysecretline"}
).encode()


class Try(NamedTuple):
    """How a route is asked. `{model}`, `{job}`, ... stand for the first account's objects, or for ones not there."""

    body: Any = None
    params: dict[str, str] = {}
    files: Any = None
    content: bytes | None = None
    is_open: bool = False
    """It concerns nobody's objects: all are answered alike."""


OPEN = Try(is_open=True)
ONE = Try()
CHATTED = Try({"model": "{model}", "messages": [{"role": "user", "content": "a"}]})
GRANT = Try({"privileges": ["OWNERSHIP"], "kind": "MODEL", "name": "{model}", "role": "{role}"})
RETUNED = Try({"model": "{model}", "base_model": "tiny"})
GIVEN = Try({"privileges": ["USAGE"], "kind": "MODEL", "name": "{model}"})
GIVEN_ALL = Try({"privileges": ["USAGE"], "kind": "MODEL", "name": "public", "scope": "ALL"})
OPENED = Try({"accounts": ["tenant"]})
CASCADE = Try(params={"cascade": "true"})
MEMBER = Try({"kind": "USER", "name": "{user}"})
JOB = {"model": "mine", "base_model": "tiny", "training_data": "SELECT * FROM {table}"}
OWN = ("{kind}", "{parameter}")
"""Of whoever asks."""
KNOWN: dict[tuple[str, str], tuple[Try, ...]] = {
    ("GET", "/healthz"): (OPEN,),
    ("GET", "/readyz"): (OPEN,),
    ("GET", "/metrics"): (ONE,),
    ("GET", f"{V1}/whoami"): (ONE,),
    ("GET", f"{V1}/base-models"): (OPEN,),
    ("GET", f"{V1}/base-models/{{name:path}}"): (OPEN,),
    ("GET", f"{V1}/engines"): (ONE,),
    ("POST", f"{V1}/jobs"): (
        Try(JOB),
        Try(JOB, {"dry_run": "true"}),
        Try({**JOB, "training_data": "SELECT 'a' AS prompt, 'b' AS completion", "options": {"continue_from": "{job}"}}),
        Try(
            {**JOB, "training_data": "SELECT 'a' AS prompt, 'b' AS completion", "options": {"continue_from": "{model}"}}
        ),
    ),
    ("POST", f"{V1}/jobs/retune"): (RETUNED, Try(RETUNED.body, {"dry_run": "true"})),
    ("GET", f"{V1}/jobs"): (ONE,),
    ("GET", f"{V1}/jobs/{{job_id}}"): (ONE,),
    ("POST", f"{V1}/jobs/{{job_id}}/cancel"): (ONE,),
    **{("GET", f"{V1}/jobs/{{job_id}}/{part}"): (ONE,) for part in ("events", "metrics", "logs", "answers")},
    ("POST", f"{V1}/tables"): (
        Try(params={"name": "mine", "filename": "a.csv", "replace": "true"}, content=b"a\n1\n"),
    ),
    ("GET", f"{V1}/tables"): (ONE,),
    ("DELETE", f"{V1}/tables/{{name:object}}"): (ONE,),
    ("POST", f"{V1}/views"): (
        Try({"name": "mine", "query": "SELECT * FROM {table}"}),
        Try({"name": "mine", "query": "SELECT * FROM {view}"}),
    ),
    ("GET", f"{V1}/views"): (ONE, Try(params={"after": "{view}"})),
    ("DELETE", f"{V1}/views/{{name:object}}"): (ONE,),
    **{("POST", f"{V1}/{kind}"): (Try({"name": "mine"}),) for kind in ("databases", "schemas")},
    **{("GET", f"{V1}/{kind}"): (ONE,) for kind in ("databases", "schemas")},
    **{("DELETE", f"{V1}/{kind}/{{name:object}}"): (ONE, CASCADE) for kind in ("databases", "schemas")},
    ("POST", f"{V1}/models"): (Try(params={"name": "{model}", "new_version": "true", "promote": "true"}),),
    ("GET", f"{V1}/models"): (ONE,),
    ("GET", MODEL): (ONE,),
    ("DELETE", MODEL): (ONE,),
    **{("GET", f"{MODEL}/{part}"): (ONE,) for part in ("artifacts", "artifacts/{file}", "versions", "history")},
    **{("GET", f"{MODEL}/{part}"): (ONE, Try(params={"merged": "true"})) for part in ("export", "export/{file}")},
    ("POST", f"{MODEL}/replicate"): (Try({"region": "local"}), Try({"region": "nowhere"})),
    ("POST", f"{MODEL}/promote"): (Try({"version": 1}), Try({"version": 1, "warm": False})),
    ("POST", f"{MODEL}/rollback"): (ONE, Try({"leaving": 1, "warm": False})),
    ("PUT", f"{MODEL}/canary"): (Try({"version": 1, "share": 5.0, "warm": False}),),
    ("DELETE", f"{MODEL}/canary"): (ONE,),
    ("PUT", f"{MODEL}/aliases/{{alias}}"): (Try({"version": 1}),),
    ("DELETE", f"{MODEL}/aliases/{{alias}}"): (ONE,),
    ("POST", f"{MODEL}/warm"): (ONE,),
    ("POST", f"{V1}/collect"): (ONE, Try(params={"dry_run": "true"})),
    ("POST", f"{V1}/sql"): (),  # isolation_statements.py
    ("POST", f"{V1}/keys"): (Try({"name": "mine"}, is_open=True), Try({"user": "{user}"}), Try({"role": "{role}"})),
    ("GET", f"{V1}/keys"): (ONE,),
    ("DELETE", f"{V1}/keys/{{key_id}}"): (ONE,),
    ("POST", f"{V1}/keys/{{key_id}}/rotate"): (ONE,),
    **{("GET", f"{V1}/{path}"): (ONE, Try(params={"unknown": "true"})) for path in ("audit", "audit/verify")},
    ("GET", f"{V1}/credits"): (ONE,),
    ("GET", f"{V1}/credits/topups"): (ONE,),
    ("POST", f"{V1}/credits/topups"): (Try({"credits": "1"}),),
    ("PUT", f"{V1}/credits/limit"): (Try({"account": "tenant2"}),),
    ("GET", f"{V1}/credits/budgets"): (ONE,),
    ("PUT", f"{V1}/credits/budgets/{{kind}}/{{name:object}}"): (Try({"credits": "1"}),),
    ("DELETE", f"{V1}/credits/budgets/{{kind}}/{{name:object}}"): (ONE,),
    ("PUT", f"{V1}/credits/alert"): (Try({"credits": "1"}),),
    ("GET", f"{V1}/webhooks"): (ONE,),
    ("POST", f"{V1}/webhooks"): (Try({"url": "https://192.0.2.1/"}),),
    ("GET", f"{V1}/webhooks/notices"): (ONE,),
    ("DELETE", f"{V1}/webhooks/{{webhook_id}}"): (ONE,),
    ("POST", f"{V1}/webhooks/{{webhook_id}}/test"): (ONE,),
    ("GET", f"{V1}/limits"): (ONE,),
    ("PUT", f"{V1}/limits"): (Try({"model": "{model}", "requests": 1}), Try({"key": "{key}", "requests": 1})),
    ("DELETE", f"{V1}/limits"): (Try(params={"model": "{model}"}), Try(params={"key": "{key}"})),
    ("GET", f"{V1}/statement"): (ONE, Try(params={"format": "cloudevents"})),
    ("GET", f"{V1}/ledger/reconcile"): (ONE,),
    ("GET", f"{V1}/usage/{{kind}}"): (ONE, Try(params={"group_by": "user"})),
    ("POST", f"{V1}/accounts"): (Try({"name": "mine"}),),
    ("GET", f"{V1}/accounts"): (ONE,),
    ("GET", f"{V1}/parameters"): (ONE,),
    ("PUT", f"{V1}/parameters/{{parameter}}"): (Try({"value": "All"}),),
    ("POST", f"{V1}/users"): (Try({"name": "mine", "default_role": "{role}"}),),
    ("GET", f"{V1}/users"): (ONE,),
    ("DELETE", f"{V1}/users/{{name:object}}"): (ONE,),
    ("PUT", f"{V1}/users/{{name:object}}/default-role"): (Try({"role": "{role}"}), Try({"role": None})),
    ("POST", f"{V1}/roles"): (Try({"name": "{role}2"}),),
    ("GET", f"{V1}/roles"): (ONE,),
    ("DELETE", f"{V1}/roles/{{name:object}}"): (ONE,),
    ("POST", f"{V1}/roles/{{name:object}}/grant"): (MEMBER, Try({"kind": "ROLE", "name": "{role}"})),
    ("POST", f"{V1}/roles/{{name:object}}/revoke"): (MEMBER,),
    ("GET", f"{V1}/grants"): (
        ONE,
        *(Try(params={key: f"{{{key[-4:]}}}"}) for key in ("to_role", "of_role", "to_user")),
        *(
            Try(params={"kind": kind.upper(), "name": f"{{{kind}}}"})
            for kind in ("model", "table", "view", "role", "user")
        ),
        Try(params={"kind": "SCHEMA", "name": "public"}),
        Try(params={"future_in": "public"}),
    ),
    ("POST", f"{V1}/grants"): (
        GRANT,
        Try({**GRANT.body, "privileges": ["SELECT"], "kind": "TABLE", "name": "{table}"}),
    ),
    ("POST", f"{V1}/grants/revoke"): (Try({**GRANT.body, "privileges": ["USAGE"]}),),
    ("POST", f"{V1}/shares"): (Try({"name": "mine"}),),
    ("GET", f"{V1}/shares"): (ONE,),
    ("GET", f"{V1}/shares/{{name:object}}"): (
        ONE,
        Try(params={"provider": "main"}),
        Try(params={"provider": "nobody"}),
    ),
    ("DELETE", f"{V1}/shares/{{name:object}}"): (ONE,),
    **{("GET", f"{V1}/shares/{{name:object}}/{part}"): (ONE,) for part in ("grants", "accounts")},
    **{("POST", f"{V1}/shares/{{name:object}}/{verb}"): (GIVEN, GIVEN_ALL) for verb in ("grant", "revoke")},
    **{(method, f"{V1}/shares/{{name:object}}/accounts"): (OPENED,) for method in ("POST", "PUT")},
    ("DELETE", f"{V1}/shares/{{name:object}}/accounts/{{account}}"): (ONE,),
    ("PUT", f"{V1}/shared-databases/{{name:object}}"): (Try({"provider": "main", "share": "{share}"}),),
    ("DELETE", f"{V1}/shared-databases/{{name:object}}"): (ONE,),
    ("POST", CHAT): (CHATTED, Try({**CHATTED.body, "stream": True})),
    ("POST", "/v1/completions"): (Try({"model": "{model}", "prompt": "a"}),),
    ("GET", "/v1/models"): (ONE,),
    ("GET", "/v1/models/{model:path}"): (ONE,),
    ("DELETE", "/v1/models/{model:path}"): (ONE,),
    ("POST", "/v1/files"): (Try({"purpose": "batch"}, files={"file": ("a.jsonl", b"{}\n")}, is_open=True),),
    ("GET", "/v1/files"): (ONE, Try(params={"after": "{file_id}"})),
    ("GET", "/v1/files/{file_id}"): (ONE,),
    ("GET", "/v1/files/{file_id}/content"): (ONE,),
    ("DELETE", "/v1/files/{file_id}"): (ONE,),
    ("POST", "/v1/batches"): (Try({"input_file_id": "{file_id}", "endpoint": CHAT, "completion_window": "24h"}),),
    ("GET", "/v1/batches"): (ONE, Try(params={"after": "{batch}"})),
    ("GET", "/v1/batches/{batch_id}"): (ONE,),
    ("POST", "/v1/batches/{batch_id}/cancel"): (ONE,),
    ("POST", "/api/v2/cortex/v1/chat/completions"): (CHATTED,),
    ("POST", "/api/v2/cortex/inference:complete"): (CHATTED, Try({**CHATTED.body, "stream": False})),
    ("GET", "/api/v2/cortex/models"): (ONE,),
    ("POST", "/serving-endpoints/chat/completions"): (CHATTED,),
    ("POST", "/serving-endpoints/completions"): (Try({"model": "{model}", "prompt": "a"}),),
    ("POST", "/serving-endpoints/{model:path}/invocations"): (
        Try({"messages": CHATTED.body["messages"]}),
        Try({"prompt": "a", "stream": True}),
    ),
    **{("GET", f"/api/2.0/serving-endpoints{end}"): (ONE,) for end in ("", "/")},
    ("GET", "/api/2.0/serving-endpoints/{model:path}"): (ONE,),
}
