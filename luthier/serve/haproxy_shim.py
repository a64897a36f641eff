"""Stands where Ray Serve starts HAProxy: edits the configuration that Ray wrote, then becomes HAProxy.

Run by itself, from the standard library: python haproxy_shim.py SETTINGS -db -f CONFIG ...
Ray has no settings for what is edited. Each edit knows how often it must match: a template of Ray's that changed ends
HAProxy's start with a message instead of passing unseen.
"""

import ctypes
import json
import os
import re
import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PR_SET_PDEATHSIG = 1
UNCONFIGURED = 78
"""Exit status: a configuration that is not as expected (EX_CONFIG)."""
RETRY_AFTER_SECONDS = 2
GONE = "This part of Luthier does not answer just now. Try again in a moment."
CORTEX = "/api/v2/cortex/inference /api/v2/cortex/models"
UNAVAILABLE: dict[str, dict[str, Any]] = {
    "": {"error": {"message": GONE, "type": "server_error", "code": "unavailable", "param": None}},
    CORTEX: {
        "message": f"inference timed out: {GONE}",
        "code": "unavailable",
        "error_code": "unavailable",
        "request_id": "%[var(txn.id)]",
    },
    "/serving-endpoints /api/2.0/serving-endpoints": {
        "error_code": "TEMPORARILY_UNAVAILABLE",
        "message": GONE,
        "code": "unavailable",
    },
}
"""What a 503 says under paths that begin so, in the form of their dialect."""
LATE = {
    "error": {
        "message": "The request did not come whole in time. Send it again.",
        "type": "invalid_request_error",
        "code": "request_timeout",
        "param": None,
    }
}
"""To whoever: of a head that is not whole nobody knows the path."""
BODY_SECONDS = 10
"""How long HAProxy waits for a body that must tell its model."""
CONTROL_HEADERS = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)
"""Ray Serve obeys them; a client has no business to send them."""
BUFFER = "option http-buffer-request"
"""Also where nothing is sent again: of a body that comes in one piece just after its head, as most clients send it,
HAProxy 2.8 does not see that its sender left. It turns idly with all of a core until the answer comes."""
ENGINE_RULES = ("retry-on conn-failure empty-response", "retries 1")
"""Only a request that HAProxy has whole before it sends it, in its 64 KB, can be sent again; of a larger one the client
is told 503. With 256 KB HAProxy took twice the time for each request, and 0.3 to 0.5 MB instead of 0.1 for each that
waited: 2 GB of all that it lets in."""
MOST_OF_MEAN = 150
"""Percent of the mean number of requests at a replica that one may have before a model's go to the next."""
SERVER = r"^(    server \S+ (\S+:\d+)) (check)\b(?! backup)"
MOST_ID = 2**31 - 2
COMPLETIONS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/api/v2/cortex/inference:complete",
    "/api/v2/cortex/v1/chat/completions",
    "/serving-endpoints/chat/completions",
    "/serving-endpoints/completions",
)
INVOCATIONS = "/serving-endpoints/.+/invocations$"
"""Ends a path that says which model it asks."""
REQUEST_ID = "luthier-request-id"
HEX_MS = "var(txn.ms),hex,bytes(4),lower"
BASE_MODEL = "luthier-base-model"
"""Header of an answer: whose engine gave it."""
LEARNED = "luthier_learned"
LEARNED_TABLE = f"backend {LEARNED}\n    stick-table type binary len 32 size 100k expire 10m store gpt0\n"
"""Which engine answers a caller's model, as the number of the engine; keyed by a hash, as callers' keys are secrets."""
SUCCESSOR = "luthier_successor"
"""The HAProxy that replaced this one. A client's connection outlives its HAProxy by one answer, however long it was
silent before; by then the replicas that this one knows may all be gone."""
REACHED = "success|DRAINING"
"""What a replica says of its health while it is to be asked: HAProxy may hear of the others after it began to go."""
ANY_ADDRESS = ("0.0.0.0", "::", "*")


class Front(NamedTuple):
    """What `luthier up` wants of its HAProxy."""

    binary: str
    """The real HAProxy."""
    host: str
    """Where clients reach it. All else listens on loopback."""
    engines: tuple[str, ...]
    """Applications whose requests may be sent once more, each under the name of its base model. They serve
    /m/<base model>/v1 themselves: completions go there, past the gateway."""
    several: tuple[str, ...] = ()
    """Engines with more than one replica: the requests of a tuned model go to the same one, which has its adapter."""
    defaults: tuple[str, str] = ("luthier", "public")
    """Database and schema of a name that has none, in small letters, as patterns."""
    secret: str = ""
    """Replicas take an id from who shows it."""
    request_seconds: int = 30
    """For the head of a request, and for as much of its body as HAProxy holds before it sends it on: 64 KB."""


class Edit(NamedTuple):
    what: str
    pattern: str
    by: str | Callable[[re.Match[str]], str]
    times: tuple[int, ...] = (1,)
    """How often the pattern may match."""


class Unexpected(Exception):
    """A configuration that Ray wrote otherwise than we know it."""


def main(arguments: list[str]) -> None:
    """Becomes HAProxy, with the arguments that Ray gave."""
    settings, *ray_arguments = arguments
    end_with_parent()
    told = json.loads(Path(settings).read_text())  # by an older Luthier too, whose cluster is still up
    front = Front(**{name: told[name] for name in Front._fields if name in told})
    config = Path(ray_arguments[ray_arguments.index("-f") + 1])
    put(config, edited(config.read_text("utf-8"), front))
    os.execv(front.binary, [front.binary, *ray_arguments])


def end_with_parent() -> None:
    """Lets the kernel kill this process, and HAProxy after it, when Ray's manager dies: it would hold the port."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent has ended")


def edited(config: str, front: Front) -> str:
    """Ray's configuration as we want it. Raises Unexpected."""
    for edit in edits(config, front):
        config, found = re.subn(edit.pattern, edit.by, config, flags=re.MULTILINE)
        if found not in edit.times:
            raise Unexpected(f"{edit.what}: found {found} times, expected {' or '.join(map(str, edit.times))}")
    return config


def edits(config: str, front: Front) -> list[Edit]:
    num_backends = len(re.findall(r"^backend http-", config, flags=re.MULTILINE))
    rules = "".join(f"\n    {rule}" for rule in (*header_rules(front.secret), *error_rules(), *direct_rules(front)))
    num_servers = len(re.findall(r"^ *server (?!.* backup\b)", config, flags=re.MULTILINE))
    return [
        Edit("port of the metrics", r"^(frontend prometheus\n    bind ):(\d+)$", r"\g<1>127.0.0.1:\2"),
        Edit("port of the statistics", r"^(listen stats\n  bind )\*:(\d+)$", r"\g<1>127.0.0.1:\2"),
        Edit("port beyond loopback", r"^ *bind (?!127\.0\.0\.1:)", "", (0,)),
        Edit(
            "port of the clients",
            r"^(frontend http_frontend\n    bind )\S+(:\d+)$",
            rf"{LEARNED_TABLE}\nbackend {SUCCESSOR}\n    {BUFFER}\n    server successor {own_address(front)}\2\n\n"
            rf"\g<1>{front.host}\2{rules}",
        ),
        Edit(
            "routes",
            r"^    # Static routing based on path prefixes .*$",
            rf"    use_backend {SUCCESSOR} if {{ stopping }}",
        ),
        # A connection to a replica for each request. On one that it has used before, HAProxy 2.8 leaves a request that
        # gets no answer to the client: it closes his connection without a word. And what it sent again could meet
        # another connection that is gone too (HAProxy's issue 3414).
        Edit(
            "idle connections",
            r"^    http-reuse always$",
            f"    option http-server-close\n    {BUFFER}",
            (num_backends,),
        ),
        Edit("health", r"^(    http-check expect) status 200$", rf"\1 rstring {REACHED}", (num_backends,)),
        Edit("rights of the admin socket", r" mode 666 level admin", " mode 600 level admin"),
        Edit("system log", r"^    log 127\.0\.0\.1:514 local0 info\n", ""),
        Edit("answer of errors", r"^    errorfile (50[234]) .*$", error_answer(r"\1", "%[var(txn.error)]"), (3,)),
        # A connection that is kept may be silent for longer, as ever.
        Edit(
            "time of a request",
            r"^    timeout client (\S+)$",
            rf"\g<0>\n    timeout http-request {front.request_seconds}s\n    timeout http-keep-alive \1",
        ),
        Edit("answer of late requests", r"^defaults\n    mode http$", rf"\g<0>\n{error_answer('408', as_json(LATE))}"),
        # Without a replica Ray holds requests in a Python proxy until there is one; ours are told to come again.
        Edit("backup server", r"^    server \S+ \S+ check backup\n", "", tuple(sorted({0, num_backends}))),
        Edit("backup server of another form", r"^ *server .* backup\b", "", (0,)),
        # What no application claims is the gateway's: HAProxy has not heard of it yet.
        Edit("page of unknown paths", r"^(backend default_backend\n)    http-request return status 404 .*\n", r"\1"),
        *(Edit("number of a server", SERVER, numbered, (num_servers,)) for _ in front.several[:1]),
        *(
            Edit(f"engine {name}", rf"^backend http-{re.escape(name)}$", rf"\g<0>{engine_rules(front, name)}", (0, 1))
            for name in front.engines
        ),
    ]


def engine_rules(front: Front, name: str) -> str:
    rules = [*ENGINE_RULES, *(affinity_rules(name, front.defaults) if name in front.several else ())]
    return "".join(f"\n    {rule}" for rule in rules)


def affinity_rules(name: str, defaults: tuple[str, str]) -> list[str]:
    """What names no tuned model goes to the replicas in turn. One name is all its spellings and versions."""
    database, schema = defaults
    bare = f'lower,regsub("@[^@]*$",""),regsub("^({database}[.])?{schema}[.]","")'
    return [
        f"http-request wait-for-body time {BODY_SECONDS}s if METH_POST",
        "http-request set-var(txn.adapter) req.body,json_query('$.model') if METH_POST",
        named_in_path("txn.adapter"),
        f"http-request unset-var(txn.adapter) if {{ var(txn.adapter) -m str {name} }}",
        f"http-request set-var(txn.adapter) 'var(txn.adapter),{bare}' if {{ var(txn.adapter) -m found }}",
        "balance hash var(txn.adapter)",
        "hash-type consistent djb2 avalanche",
        f"hash-balance-factor {MOST_OF_MEAN}",
    ]


def numbered(server: re.Match[str]) -> str:
    """With a number by its address: HAProxy hashes by it, and counts lines where there is none."""
    return f"{server[1]} id {zlib.crc32(server[2].encode()) % MOST_ID + 1} {server[3]}"


def own_address(front: Front) -> str:
    return "127.0.0.1" if front.host in ANY_ADDRESS else front.host


def header_rules(secret: str) -> list[str]:
    return [
        *(f"http-request del-header {name}" for name in CONTROL_HEADERS),
        "http-request del-header x-serve-router- -m beg",
        "http-request set-header x-forwarded-for %[src]",  # for the audit; in the place of a client's own
        # Once for a request, however often it is sent: whoever answers it bills it under this id.
        "http-request set-var(txn.ms) date(0,ms)",
        "http-request set-var(txn.uuid) uuid()",
        f'http-request set-header {REQUEST_ID} "{secret} %[var(txn.ms)] %[var(txn.uuid)]"',
    ]


def error_rules() -> list[str]:
    """What HAProxy says where no replica answers, and whose request it was, as request_ids.py writes it."""
    return [
        f'http-request set-var-fmt(txn.id) "req_%[{HEX_MS}]%[var(txn.uuid),regsub(-,,g),bytes(0,20)]"',
        *(
            f"http-request set-var-fmt(txn.error) '{as_json(told)}'{under(paths)}"
            for paths, told in UNAVAILABLE.items()
        ),
        f"http-request set-var(txn.snowflake_id) var(txn.id){under(CORTEX)}",
        "http-after-response set-status 503 if { status 502 504 }",
        named_rule("x-request-id", "txn.id"),
        named_rule("X-Snowflake-Request-ID", "txn.snowflake_id"),
    ]


def named_rule(header: str, by: str) -> str:
    """Names an answer of HAProxy's own: a replica's has the header."""
    condition = f"if {{ var({by}) -m found }} !{{ res.hdr({header}) -m found }}"
    return f"http-after-response set-header {header} %[var({by})] {condition}"


def under(paths: str) -> str:
    return f" if {{ path_beg {paths} }}" if paths else ""


def direct_rules(front: Front) -> list[str]:
    """The gateway gets what is left: bodies that do not tell their model, and each model for the first time."""
    if not front.engines:
        return []
    door = [f"acl luthier_completion path {' '.join(COMPLETIONS)}", f"acl luthier_completion path_reg ^{INVOCATIONS}"]
    if len(front.engines) == 1:
        return [*door, f"http-request set-path /m/{front.engines[0]}%[path] if METH_POST luthier_completion"]
    return [*door, *asked_rules(), *move_rules(front.engines), *learning_rules(front.engines)]


def named_in_path(variable: str) -> str:
    model = 'path,url_dec,regsub("^.*/serving-endpoints/",""),regsub("/invocations$","")'
    return f"http-request set-var({variable}) '{model}' if METH_POST {{ path_reg {INVOCATIONS} }}"


def asked_rules() -> list[str]:
    """txn.model: what the body asks for; txn.asked: the same, by whom."""
    return [
        f"http-request wait-for-body time {BODY_SECONDS}s if METH_POST luthier_completion",
        "http-request set-var(txn.model) req.body,json_query('$.model') if METH_POST luthier_completion",
        named_in_path("txn.model"),
        'http-request set-var-fmt(txn.asked) "%[req.hdr(authorization)] %[var(txn.model)]" '
        "if luthier_completion { var(txn.model) -m found }",
    ]


def move_rules(engines: tuple[str, ...]) -> list[str]:
    """A base model's name says where to go; a tuned one is known from its last answer. A path once moved stays."""
    move = "http-request set-path /m/{name}%[path] if luthier_completion {{ {what} }}"
    named = [move.format(name=name, what=f"var(txn.model) -m str {name}") for name in engines]
    track = f"http-request track-sc0 var(txn.asked),sha2(256) table {LEARNED} if luthier_completion"
    known = [move.format(name=name, what=f"sc0_get_gpt0 eq {number}") for number, name in enumerate(engines, 1)]
    return [*named, f"{track} {{ var(txn.asked) -m found }}", *known]


def learning_rules(engines: tuple[str, ...]) -> list[str]:
    """Names belong to accounts and may come to mean another model: each answer says anew, and a refusal forgets."""
    learn = "http-response sc-set-gpt0(0) {number} if {{ sc0_tracked }} {{ {what} }}"
    named = [
        learn.format(number=number, what=f"res.hdr({BASE_MODEL}) -m str {name}")
        for number, name in enumerate(engines, 1)
    ]
    return [*named, learn.format(number=0, what="status 400:404 503")]


def error_answer(status: str, body: str) -> str:
    headers = f"hdr Retry-After {RETRY_AFTER_SECONDS}"
    return f"    http-error status {status} content-type application/json lf-string '{body}' {headers}"


def as_json(told: dict[str, Any]) -> str:
    return json.dumps(told, separators=(",", ":"))


def put(file: Path, text: str) -> None:
    """All of it or nothing, as a process before this one may read the file."""
    new = file.with_name(f"{file.name}.edited")
    new.write_text(text, "utf-8")
    new.replace(file)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Unexpected as error:
        print(f"HAProxy's configuration is not as Luthier knows it from Ray: {error}", file=sys.stderr)
        sys.exit(UNCONFIGURED)
