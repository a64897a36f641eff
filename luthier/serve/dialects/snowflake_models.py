"""Snowflake's SQL on models: SHOW MODELS, SHOW CORTEX BASE MODELS, SHOW VERSIONS IN MODEL, ALTER MODEL, DROP MODEL.

Shapes: docs.snowflake.com, SHOW MODELS, SHOW VERSIONS IN MODEL, ALTER MODEL. Words of the statement stand in order, as
the documentation has them; names are identifiers.
"""

import json
import re
from datetime import UTC, datetime

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.base_models import is_retired
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.privileges import Action
from luthier.platform.registry.models import all_models
from luthier.platform.versions import parse_alias, parse_version
from luthier.serve.dialects.snowflake_statements import (
    IDENTIFIER,
    IN_PLACE,
    LIKE,
    LIMIT,
    NAME,
    STARTS,
    Answer,
    columns,
    done,
    most_rows,
    pattern,
)
from luthier.serve.services import Services

OBJECT = f"(?P<model>{NAME})"
VERSION = rf"(?P<version>{IDENTIFIER})"

MODELS = columns(
    *("created_on", "name", "model_type", "database_name", "schema_name"),
    *("owner", "comment", "versions", "default_version_name", "aliases"),
)
BASE_MODELS = columns("name", "lifecycle_status", "available_regions", "legacy_date", "eol_date")
VERSIONS = columns(
    *("created_on", "name", "aliases", "database_name", "schema_name"),
    *("model_name", "is_default_version", "functions", "metadata", "user_data"),
)


def _show_models(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    rows = []
    models = all_models(services.registry.models, caller, most_rows(found))
    numbers = services.registry.versions.numbers([model for model in models if not model.origin])
    for model in models:
        name = parse_name(model.model, "", "")
        rows.append(
            {
                "created_on": model.created_on,
                "name": name.name,
                "model_type": "USER_MODEL" if model.job_id is None and model.origin is None else "CORTEX_FINETUNED",
                "database_name": name.database,
                "schema_name": name.schema,
                "owner": model.owner,
                "comment": services.told(model)["warning"] or "",
                "versions": json.dumps([f"V{number}" for number in numbers.get(model.number, [model.version])]),
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


def _show_base_models(services: Services, caller: Caller, _found: "re.Match[str]") -> pa.Table:
    """Those that the caller may ask."""
    today, bases = datetime.now(UTC).date(), services.catalog
    allowed = set(services.registry.accounts.may_ask(caller, [base.name for base in bases]))
    rows = [
        {
            "name": base.name,
            "lifecycle_status": "LEGACY" if base.retired else "GA",
            "available_regions": json.dumps([services.settings.region] if base.name in services.base_models else []),
            "eol_date": str(base.retired.after) if base.retired else None,
        }
        for base in bases
        if base.name in allowed and not is_retired(base, today)
    ]
    return pa.Table.from_pylist(rows, BASE_MODELS)


def _refresh_base_models(services: Services, caller: Caller, _found: "re.Match[str]") -> pa.Table:
    """There is nothing to fetch: the catalog is the settings', and read when Luthier starts."""
    services.registry.grants.check(caller, Action.ADMINISTER)
    return pa.table({"CORTEX_BASE_MODELS_REFRESH": ["Models refreshed successfully."]})


def _set_default(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    model = services.registry.versions.promote(caller, _asked(services, found), _version(found))
    return done(f"Model {model.model}: V{model.default_version} is the default version.")


def _set_alias(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    alias = parse_alias(found["alias"])
    services.registry.versions.set_alias(caller, _asked(services, found), alias, _version(found))
    return done("Statement executed successfully.")


def _unset_alias(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    services.registry.versions.drop_alias(caller, _asked(services, found), parse_alias(found["version"]))
    return done("Statement executed successfully.")


def _drop(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = _asked(services, found)
    services.registry.models.drop(caller, name)
    return done(f"{name.name} successfully dropped.")


def _drop_version(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    services.registry.models.drop(caller, _asked(services, found), _version(found))
    return done("Statement executed successfully.")


def _asked(services: Services, found: "re.Match[str]") -> QualifiedName:
    return parse_name(found["model"], services.settings.database, services.settings.schema_name)


def _version(found: "re.Match[str]") -> int | str:
    return parse_version(found["version"].strip("'"))


STATEMENTS: tuple[tuple["re.Pattern[str]", Answer], ...] = (
    (pattern(f"SHOW MODELS{LIKE}{IN_PLACE}{STARTS}{LIMIT}"), _show_models),
    (pattern(rf"SHOW CORTEX BASE MODELS(?: IN (?:SCHEMA )?SNOWFLAKE\.MODELS)?{LIKE}"), _show_base_models),
    (pattern(r"CALL SNOWFLAKE\.MODELS\.CORTEX_BASE_MODELS_REFRESH\(\)"), _refresh_base_models),
    (pattern(f"SHOW VERSIONS{LIKE} IN MODEL {OBJECT}{LIMIT}"), _show_versions),
    (pattern(rf"ALTER MODEL {OBJECT} SET DEFAULT_VERSION=(?P<version>'\w+'|{IDENTIFIER})"), _set_default),
    (pattern(rf"ALTER MODEL {OBJECT} VERSION {VERSION} SET ALIAS=(?P<alias>{IDENTIFIER})"), _set_alias),
    (pattern(f"ALTER MODEL {OBJECT} VERSION {VERSION} UNSET ALIAS"), _unset_alias),
    (pattern(f"ALTER MODEL {OBJECT} DROP VERSION {VERSION}"), _drop_version),
    (pattern(f"DROP MODEL {OBJECT}"), _drop),
)
