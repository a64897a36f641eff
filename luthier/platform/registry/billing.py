"""What jobs cost: held from their start, charged at their end, in the transactions of jobs.py."""

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.jobs import Job
from luthier.platform.metering import Source, training_usage
from luthier.platform.prices import Price, PriceList
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.limits import available


class Billing:
    """What a job's trained tokens cost, by its base model's price class: held from its start, charged at its end.

    Both at the price that its report names: nobody pays more than what was held because prices rose meanwhile.
    """

    def __init__(self, catalog: Catalog, prices: PriceList, ledger: Ledger, guard: Guard) -> None:
        self.catalog, self._guard = catalog, guard
        self._prices, self._ledger, self._limits = prices, ledger, ledger.limits

    def hold(self, tx: sa.Connection, job: Job) -> None:
        """PaymentRequired when the account, or a budget, has less."""
        self._hold(tx, owner_of(job), job, self._accepted(job), job.report["trained_tokens"])

    def tell_refused(self, tx: sa.Connection, job: Job) -> None:
        """That its price was not there, of each limit that has less."""
        amount = self._accepted(job).training_ucr(self._class(job), job.report["trained_tokens"])
        for limit in self._limits.limiting(tx, owner_of(job)):
            if available(limit) < amount:
                self._limits.notices.refused(tx, limit)

    def release(self, tx: sa.Connection, job: Job) -> None:
        """What the job did not cost of its hold."""
        self._limits.release(tx, job.id)

    def charge_late(self, tx: sa.Connection, job: Job, payer: Caller, now: int) -> None:
        """What an ended job trained at no price, to who goes on from it, as prices are now. PaymentRequired when he
        has less.
        """
        done = job.progress
        self._hold(tx, payer, job, self._prices, done.trained_tokens)
        self._charge(tx, job, payer, self._prices, (done.trained_tokens, done.evaluated_tokens), now)
        self.release(tx, job)

    def charge(self, tx: sa.Connection, job: Job, tokens: tuple[int, int], now: int) -> None:
        """`tokens` are (trained, evaluated)."""
        self._charge(tx, job, owner_of(job), self._accepted(job), tokens, now)

    def _hold(self, tx: sa.Connection, payer: Caller, job: Job, prices: PriceList, trained: int) -> None:
        amount = prices.training_ucr(self._class(job), trained)
        self._limits.hold(tx, payer, job.id, amount, lambda action: self._guard.may(tx, payer, action))

    def _charge(
        self, tx: sa.Connection, job: Job, payer: Caller, prices: PriceList, tokens: tuple[int, int], now: int
    ) -> None:
        its = {"base_model": job.base_model, "price_class": self._class(job), "model": job.model}
        usage = training_usage(payer, Source(id=job.id, function="FINETUNE", **its), prices, tokens, now)
        self._ledger.append_in(tx, [usage.model_copy(update={"leases": (job.id,)})])

    def _accepted(self, job: Job) -> PriceList:
        """What the job was accepted at; today's prices for a job of before reports named one."""
        if not (told := job.report.get("training_price")):
            return self._prices
        price = Price(training=told, prompt="0", completion="0")
        return PriceList(version=job.report["price_version"], classes={self._class(job): price})

    def _class(self, job: Job) -> str:
        return self.catalog.get(job.base_model).price_class


def owner_of(job: Job) -> Caller:
    """Who pays for it."""
    return Caller(account=job.account, user=job.owner, role=job.role, key=job.key)
