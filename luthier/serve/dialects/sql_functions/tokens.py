"""COUNT_TOKENS(model, text) and AI_COUNT_TOKENS('ai_complete', model, text), by the base model's own tokenizer."""

from collections.abc import Callable

from luthier.errors import InvalidInput
from luthier.platform.base_models import base_model_dir
from luthier.platform.prompts import load_prompts
from luthier.serve.dialects.sql_functions.rows import Row, as_text
from luthier.serve.services import Services


def count_tokens(services: Services) -> Callable[[Row], str | None]:
    def count(row: Row) -> str | None:
        model, text = map(as_text, row)
        if model is None or text is None:
            return None
        base = services.catalog.get(model)
        return str(len(load_prompts(base_model_dir(services.settings, base)).encode(text)))

    return count


def ai_count_tokens(services: Services) -> Callable[[Row], str | None]:
    counted = count_tokens(services)

    def count(row: Row) -> str | None:
        function, *rest = row
        if function != "ai_complete":
            raise InvalidInput(f"AI_COUNT_TOKENS: {function!r} is not counted here; 'ai_complete' is.")
        return counted(rest)

    return count
