"""What jobs cost: held from their start, charged at their end, in the transactions of jobs.py."""

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.jobs import Job
from luthier.platform.metering import Source, training_usage
from luthier.platform.prices import PriceList
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.limits import available


class Billing:
    """What a job's trained tokens cost, by its base model's price class: held from its start, charged at its end."""

    def __init__(self, catalog: Catalog, prices: PriceList, ledger: Ledger, guard: Guard) -> None:
        self.catalog, self._guard = catalog, guard
        self._prices, self._ledger, self._limits = prices, ledger, ledger.limits

    def hold(self, tx: sa.Connection, job: Job) -> None:
        """The price that the report names. PaymentRequired when the account, or a budget, has less."""
        self._hold(tx, owner_of(job), job, job.report["trained_tokens"])

    def tell_refused(self, tx: sa.Connection, job: Job) -> None:
        """That its price was not there, of each limit that has less."""
        price_class = self.catalog.get(job.base_model).price_class
        amount = self._prices.training_ucr(price_class, job.report["trained_tokens"])
        for limit in self._limits.limiting(tx, owner_of(job)):
            if available(limit) < amount:
                self._limits.notices.refused(tx, limit)

    def release(self, tx: sa.Connection, job: Job) -> None:
        """What the job did not cost of its hold."""
        self._limits.release(tx, job.id)

    def charge_late(self, tx: sa.Connection, job: Job, payer: Caller, now: int) -> None:
        """What an ended job trained at no price, to who goes on from it. PaymentRequired when he has less."""
        self._hold(tx, payer, job, job.progress.trained_tokens)
        self.charge(tx, job, (job.progress.trained_tokens, job.progress.evaluated_tokens), now, payer)
        self.release(tx, job)

    def _hold(self, tx: sa.Connection, payer: Caller, job: Job, trained: int) -> None:
        amount = self._prices.training_ucr(self.catalog.get(job.base_model).price_class, trained)
        self._limits.hold(tx, payer, job.id, amount, lambda action: self._guard.may(tx, payer, action))

    def charge(
        self, tx: sa.Connection, job: Job, tokens: tuple[int, int], now: int, payer: Caller | None = None
    ) -> None:
        """`tokens` are (trained, evaluated)."""
        price_class = self.catalog.get(job.base_model).price_class
        source = Source(
            id=job.id, function="FINETUNE", base_model=job.base_model, price_class=price_class, model=job.model
        )
        usage = training_usage(payer or owner_of(job), source, self._prices, tokens, now)
        self._ledger.append_in(tx, [usage.model_copy(update={"leases": (job.id,)})])


def owner_of(job: Job) -> Caller:
    """Who pays for it."""
    return Caller(account=job.account, user=job.owner, role=job.role, key=job.key)
