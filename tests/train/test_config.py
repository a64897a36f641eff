import pytest
from pydantic import ValidationError

from luthier.train.config import FitConfig


@pytest.mark.parametrize("given", [1, 8, (1, 4), (2, 2)])
def test_workers_are_a_number_or_a_range(config: FitConfig, given: object) -> None:
    made = FitConfig(**{**config.model_dump(), "num_workers": given})
    assert made.num_workers == given
    assert FitConfig.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("given", [0, (0, 2), (4, 1), (1, 2, 3)])
def test_a_range_without_workers_is_refused(config: FitConfig, given: object) -> None:
    with pytest.raises(ValidationError, match="num_workers"):
        FitConfig(**{**config.model_dump(), "num_workers": given})
