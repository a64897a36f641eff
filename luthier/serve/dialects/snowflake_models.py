"""Snowflake's SQL on models: SHOW MODELS, SHOW CORTEX BASE MODELS, SHOW VERSIONS IN MODEL, ALTER MODEL, DROP MODEL.

Shapes: docs.snowflake.com, SHOW MODELS, SHOW VERSIONS IN MODEL, ALTER MODEL.
"""

import json
from datetime import UTC, datetime

import pyarrow as pa

from luthier.platform.base_models import is_retired
from luthier.platform.keys import Endpoint
from luthier.platform.names import parse_name
from luthier.platform.privileges import Action
from luthier.platform.registry.models import all_models
from luthier.platform.versions import parse_alias, parse_version
from luthier.serve.dialects.snowflake_statements import IDENTIFIER, Command, Statements, columns, done, dropped, table

MODELS = columns(
    "created_on, name, model_type, database_name, schema_name, owner, comment, versions, default_version_name, aliases"
)
BASE_MODELS = columns("name, lifecycle_status, available_regions, legacy_date, eol_date")
VERSIONS = columns(
    "created_on, name, aliases, database_name, schema_name, model_name, is_default_version, functions, metadata, "
    "user_data"
)

statements = Statements(Endpoint.MODELS, VERSION=f"(?P<version>{IDENTIFIER})")


@statements.on("SHOW MODELS{LIKE}{IN_PLACE}{STARTS}{LIMIT}")
def _show_models(command: Command) -> pa.Table:
    command.check_place()
    rows = []
    models = all_models(command.registry.models, command.caller, command.most_rows, command.wanted)
    numbers = command.registry.versions.numbers([model for model in models if not model.origin])
    for model in models:
        name = parse_name(model.model, "", "")
        rows.append(
            {
                "created_on": model.created_on,
                "name": name.name,
                "model_type": "USER_MODEL" if model.job_id is None and model.origin is None else "CORTEX_FINETUNED",
                "database_name": name.database,
                "schema_name": name.schema,
                "owner": model.role or model.owner,
                "comment": command.services.told(model)["warning"] or "",
                "versions": json.dumps([f"V{number}" for number in numbers.get(model.number, [model.version])]),
                "default_version_name": f"V{model.default_version}",
                "aliases": json.dumps({alias: f"V{number}" for alias, number in model.aliases.items()}),
            }
        )
    return table(MODELS, rows)


@statements.on(r"SHOW CORTEX BASE MODELS(?: IN (?:SCHEMA )?SNOWFLAKE\.MODELS)?{LIKE}")
def _show_base_models(command: Command) -> pa.Table:
    """Those that the caller may ask."""
    services, today, bases = command.services, datetime.now(UTC).date(), command.services.catalog
    allowed = set(command.registry.accounts.may_ask(command.caller, [base.name for base in bases]))
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
    return table(BASE_MODELS, rows)


@statements.on(r"CALL SNOWFLAKE\.MODELS\.CORTEX_BASE_MODELS_REFRESH\(\)")
def _refresh_base_models(command: Command) -> pa.Table:
    """There is nothing to fetch: the catalog is the settings', and read when Luthier starts."""
    command.registry.grants.check(command.caller, Action.ADMINISTER)
    return pa.table({"CORTEX_BASE_MODELS_REFRESH": ["Models refreshed successfully."]})


@statements.on("SHOW VERSIONS{LIKE} IN MODEL {FULL_NAME}{LIMIT}")
def _show_versions(command: Command) -> pa.Table:
    name = command.services.name(command["name"])
    rows = [
        {
            "created_on": version.created_on,
            "name": f"V{version.version}",
            "aliases": json.dumps(version.aliases),
            "is_default_version": version.is_default,
            "metadata": version.model_dump_json(include={"base_model", "method", "rank", "sha256"}),
        }
        for version in command.registry.versions.show(command.caller, name)
    ]
    place = {"database_name": name.database, "schema_name": name.schema, "model_name": name.name}
    return table(VERSIONS, rows, **place, functions='["COMPLETE"]', user_data="{}")


@statements.on(r"ALTER MODEL {FULL_NAME} SET DEFAULT_VERSION=(?P<version>'\w+'|{IDENTIFIER})")
def _set_default(command: Command) -> pa.Table:
    name, version = command.services.name(command["name"]), _version(command)
    model = command.registry.versions.promote(command.caller, name, version)
    return done(f"Model {model.model}: V{model.default_version} is the default version.")


@statements.on(r"ALTER MODEL {FULL_NAME} VERSION {VERSION} SET ALIAS=(?P<alias>{IDENTIFIER})")
def _set_alias(command: Command) -> pa.Table:
    alias, name = parse_alias(command["alias"]), command.services.name(command["name"])
    command.registry.versions.set_alias(command.caller, name, alias, _version(command))
    return done()


@statements.on("ALTER MODEL {FULL_NAME} VERSION {VERSION} UNSET ALIAS")
def _unset_alias(command: Command) -> pa.Table:
    name = command.services.name(command["name"])
    command.registry.versions.drop_alias(command.caller, name, parse_alias(command["version"]))
    return done()


@statements.on("ALTER MODEL {FULL_NAME} DROP VERSION {VERSION}")
def _drop_version(command: Command) -> pa.Table:
    command.registry.models.drop(command.caller, command.services.name(command["name"]), _version(command))
    return done()


@statements.on("DROP MODEL{IF_EXISTS} {FULL_NAME}")
def _drop(command: Command) -> pa.Table:
    name = command.services.name(command["name"])
    return dropped(command, name.name, lambda: command.registry.models.drop(command.caller, name))


def _version(command: Command) -> int | str:
    return parse_version(command["version"].strip("'"))
