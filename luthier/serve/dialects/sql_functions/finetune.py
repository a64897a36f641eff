"""FINETUNE('CREATE' | 'SHOW' | 'DESCRIBE' | 'CANCEL', ...)."""

import json

import pyarrow as pa

from luthier.errors import InvalidInput
from luthier.platform.finetune import Finetune
from luthier.platform.keys import Endpoint
from luthier.platform.wire import CreateJob, options_from_json, snowflake_description, snowflake_row
from luthier.serve.dialects.sql_functions.rows import Call, Statement

Cells = list[str | None]
"""Here an object is JSON text, as options may be anyway."""
CHANGING = {"CREATE": ("create_job", "job of model"), "CANCEL": ("cancel_job", "job")}
"""As the audit calls it, and what it is done to."""
NUM_ARGUMENTS = {"CREATE": (4, 6), "SHOW": (1, 1), "DESCRIBE": (2, 2), "CANCEL": (2, 2)}


def finetune_of(finetune: Finetune, statement: Statement) -> Call:
    """FINETUNE as this caller may use it."""
    caller = statement.caller

    def run(row: Cells) -> str:
        verb = _verb(row)
        _let_in(statement, verb, row)
        if verb == "SHOW":
            return json.dumps([snowflake_row(job) for job in finetune.show(caller)])
        if verb == "CREATE":
            return finetune.create(caller, _create_request(row)).id
        job_id = row[1] or ""
        if verb == "DESCRIBE":
            return json.dumps(snowflake_description(finetune.describe(caller, job_id)))
        return f"Canceled Cortex Fine-tuning job: {finetune.cancel(caller, job_id).id}"

    def call(columns: list[pa.Array]) -> pa.Array:
        rows = [list(row) for row in zip(*map(_cells, columns), strict=True)]
        return pa.array([statement.context.copy().run(run, row) for row in rows], pa.string())

    return call


def _let_in(statement: Statement, verb: str, row: Cells) -> None:
    changes = verb in CHANGING
    if changes:
        statement.tell_row(*CHANGING[verb], row[1] or "")
    statement.session.check(Endpoint.FINETUNING, changes)
    if changes:
        statement.session.check_unbounded(f"FINETUNE('{verb}')")
    elif verb == "DESCRIBE":
        statement.services.check_job(statement.session, row[1] or "")


def _cells(column: pa.Array) -> Cells:
    cells: Cells = column.to_pylist()
    return cells


def _verb(row: Cells) -> str:
    verb = (row[0] or "").upper()
    if verb not in NUM_ARGUMENTS:
        raise InvalidInput(f"FINETUNE: unknown operation {row[0]!r}; use CREATE, SHOW, DESCRIBE or CANCEL.")
    fewest, most = NUM_ARGUMENTS[verb]
    if not fewest <= len(row) <= most:
        takes_words = f"{fewest} to {most}" if fewest < most else str(most)
        raise InvalidInput(f"FINETUNE('{verb}') takes {takes_words} arguments, not {len(row)}.")
    return verb


def _create_request(row: Cells) -> CreateJob:
    missing = [name for name, cell in zip(("name", "base model", "training query"), row[1:4], strict=True) if not cell]
    if missing:
        raise InvalidInput(f"FINETUNE('CREATE'): the {missing[0]} is missing.")
    validation, options = [*row[4:], None, None][:2]
    return CreateJob(
        model=row[1] or "",
        base_model=row[2] or "",
        training_data=row[3] or "",
        validation_data=validation,
        options=options_from_json(options),
    )
