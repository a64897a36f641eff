"""What the trainer is asked for a job."""

from luthier.platform.base_models import load_catalog
from luthier.platform.options import FinetuneOptions
from luthier.platform.prices import Price, PriceList
from luthier.platform.queue import Capacity
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.train.run_job import TrainEnv, configure
from tests.factories import make_job


def test_a_budget_ends_a_run_by_the_prices_that_bill_it(settings: Settings, registry: Registry) -> None:
    base = load_catalog(settings).get("tiny")
    price = Price(training="3", prompt="1", completion="1")
    bills_by = PriceList(version="old", classes={base.price_class: price})
    env = TrainEnv(settings, registry.jobs, Capacity(jobs=1, workers=1, unit="CPU"), bills_by)
    job = make_job(options=FinetuneOptions(budget_credits="6", on_budget="shorten"))
    assert configure(job, base, env).max_trained_tokens == 2_000_000
