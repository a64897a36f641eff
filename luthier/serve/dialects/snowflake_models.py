"""Snowflake's SQL on models: SHOW MODELS, SHOW VERSIONS IN MODEL, ALTER MODEL, DROP MODEL.

Shapes: docs.snowflake.com, SHOW MODELS, SHOW VERSIONS IN MODEL, ALTER MODEL. Words of the statement stand in order, as
the documentation has them; names are identifiers.
"""

import json
import re
from collections.abc import Callable

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.sql_dialect import strip_semicolon
from luthier.platform.versions import parse_alias, parse_version
from luthier.serve.services import Services

IDENTIFIER = r'(?:"(?:[^"]|"")*"|[\w$]+)'
OBJECT = rf"(?P<model>{IDENTIFIER}(?:\s*\.\s*{IDENTIFIER}){{,2}})"
VERSION = rf"(?P<version>{IDENTIFIER})"


def _schema(*names: str) -> pa.Schema:
    types = {"created_on": pa.timestamp("ms", tz="UTC"), "is_default_version": pa.bool_()}
    return pa.schema([(name, types.get(name, pa.string())) for name in names])


MODELS = _schema(
    *("created_on", "name", "model_type", "database_name", "schema_name"),
    *("owner", "comment", "versions", "default_version_name", "aliases"),
)
VERSIONS = _schema(
    *("created_on", "name", "aliases", "database_name", "schema_name"),
    *("model_name", "is_default_version", "functions", "metadata", "user_data"),
)

Answer = Callable[[Services, Caller, "re.Match[str]"], pa.Table]


def model_statement(services: Services, caller: Caller, statement: str) -> pa.Table | None:
    """What a statement on models answers; None when it is none."""
    text = strip_semicolon(statement)
    for pattern, answer in STATEMENTS:
        if found := pattern.fullmatch(text):
            return answer(services, caller, found)
    return None


def _show_models(services: Services, caller: Caller, _found: "re.Match[str]") -> pa.Table:
    rows = []
    for model in services.registry.models.show(caller):
        name = parse_name(model.model, "", "")
        versions = services.registry.versions.show(caller, name)
        rows.append(
            {
                "created_on": model.created_on,
                "name": name.name,
                "model_type": "USER_MODEL" if model.job_id is None else "CORTEX_FINETUNED",
                "database_name": name.database,
                "schema_name": name.schema,
                "owner": model.owner,
                "comment": "",
                "versions": json.dumps([f"V{version.version}" for version in versions]),
                "default_version_name": f"V{model.default_version}",
                "aliases": json.dumps({alias: f"V{number}" for alias, number in model.aliases.items()}),
            }
        )
    return pa.Table.from_pylist(rows, MODELS)


def _show_versions(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = _asked(services, found)
    rows = [
        {
            "created_on": version.created_on,
            "name": f"V{version.version}",
            "aliases": json.dumps(version.aliases),
            "database_name": name.database,
            "schema_name": name.schema,
            "model_name": name.name,
            "is_default_version": version.is_default,
            "functions": '["COMPLETE"]',
            "metadata": version.model_dump_json(include={"base_model", "method", "rank", "sha256"}),
            "user_data": "{}",
        }
        for version in services.registry.versions.show(caller, name)
    ]
    return pa.Table.from_pylist(rows, VERSIONS)


def _set_default(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    model = services.registry.versions.promote(caller, _asked(services, found), _version(found))
    return _done(f"Model {model.model}: V{model.default_version} is the default version.")


def _set_alias(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    alias = parse_alias(found["alias"])
    services.registry.versions.set_alias(caller, _asked(services, found), alias, _version(found))
    return _done("Statement executed successfully.")


def _unset_alias(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    services.registry.versions.drop_alias(caller, _asked(services, found), parse_alias(found["version"]))
    return _done("Statement executed successfully.")


def _drop(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = _asked(services, found)
    services.registry.models.drop(caller, name)
    return _done(f"{name.name} successfully dropped.")


def _drop_version(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    services.registry.models.drop(caller, _asked(services, found), _version(found))
    return _done("Statement executed successfully.")


def _asked(services: Services, found: "re.Match[str]") -> QualifiedName:
    return parse_name(found["model"], services.settings.database, services.settings.schema_name)


def _version(found: "re.Match[str]") -> int | str:
    return parse_version(found["version"].strip("'"))


def _done(text: str) -> pa.Table:
    return pa.table({"status": pa.array([text], pa.string())})


def _pattern(words: str) -> "re.Pattern[str]":
    return re.compile(words.replace(" ", r"\s+").replace("=", r"\s*=\s*"), re.IGNORECASE | re.DOTALL)


STATEMENTS: tuple[tuple["re.Pattern[str]", Answer], ...] = (
    (_pattern("SHOW MODELS"), _show_models),
    (_pattern(f"SHOW VERSIONS IN MODEL {OBJECT}"), _show_versions),
    (_pattern(rf"ALTER MODEL {OBJECT} SET DEFAULT_VERSION=(?P<version>'\w+'|{IDENTIFIER})"), _set_default),
    (_pattern(rf"ALTER MODEL {OBJECT} VERSION {VERSION} SET ALIAS=(?P<alias>{IDENTIFIER})"), _set_alias),
    (_pattern(f"ALTER MODEL {OBJECT} VERSION {VERSION} UNSET ALIAS"), _unset_alias),
    (_pattern(f"ALTER MODEL {OBJECT} DROP VERSION {VERSION}"), _drop_version),
    (_pattern(f"DROP MODEL {OBJECT}"), _drop),
)
