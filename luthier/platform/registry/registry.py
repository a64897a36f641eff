"""The registry: the only writer of jobs, models, tables, keys and the ledger. A plain class over the store."""

from collections.abc import Callable

from luthier.platform.base_models import load_catalog
from luthier.platform.jobs import now_ms
from luthier.platform.prices import load_prices
from luthier.platform.registry.access import Access
from luthier.platform.registry.accounts import Accounts
from luthier.platform.registry.artifacts import Artifacts
from luthier.platform.registry.audit import Audit
from luthier.platform.registry.batches import Batches
from luthier.platform.registry.billing import Billing
from luthier.platform.registry.budgets import Budgets
from luthier.platform.registry.credits import Credits
from luthier.platform.registry.databases import Databases
from luthier.platform.registry.files import Files
from luthier.platform.registry.grants import Grants
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.jobs import Jobs, Launcher
from luthier.platform.registry.keys import Keys
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.models import Models
from luthier.platform.registry.outbox import Outbox
from luthier.platform.registry.proofs import Proofs
from luthier.platform.registry.rates import Rates
from luthier.platform.registry.reconcile import Reconcile
from luthier.platform.registry.replication import Replicas
from luthier.platform.registry.retention import Retention
from luthier.platform.registry.roles import Roles
from luthier.platform.registry.shares import Shares
from luthier.platform.registry.storage import StorageMeter
from luthier.platform.registry.tables import Tables
from luthier.platform.registry.usage import UsageReader
from luthier.platform.registry.users import Users
from luthier.platform.registry.versions import Versions
from luthier.platform.registry.views import Views
from luthier.platform.registry.webhooks import Webhooks
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.store import Store


class Registry:
    """Groups of verbs over one store; each verb is idempotent and takes milliseconds."""

    def __init__(
        self,
        settings: Settings,
        launcher: Launcher,
        clock: Callable[[], int] = now_ms,
        read_only: bool = False,
    ) -> None:
        """`read_only` for verbs that read, beside the one registry that writes."""
        store = Store(settings.store_url, migrate=not read_only, read_only=read_only)
        guard, catalog = Guard(store, settings.account), load_catalog(settings)
        home = Securable(ObjectKind.SCHEMA, settings.database, settings.schema_name)
        self.accounts = Accounts(store, guard, catalog, clock, home)
        self.access = Access(store, guard, home)
        token_key_days = settings.oidc_max_key_days if settings.oidc_issuer else None
        self.keys = Keys(store, guard, self.access, clock, token_key_days)
        self.audit = Audit(store, guard)
        self.roles = Roles(store, guard, self.access, clock)
        self.users = Users(store, guard, self.roles, clock)
        self.grants = Grants(store, guard, self.roles, catalog, clock)
        self.shares = Shares(store, guard, self.grants, clock)
        self.tables, self.views = Tables(store, guard), Views(store, guard)
        self.models = Models(store, clock)
        self.databases = Databases(store, guard, (self.tables, self.views, self.models), home, clock)
        self.versions = Versions(store, clock)
        self.replicas = Replicas(store, settings, catalog)
        self.artifacts = Artifacts(store, settings, clock)
        self.usage = UsageReader(store)
        self.ledger = Ledger(store, clock)
        self.budgets = Budgets(store, guard, clock)
        self.credits = Credits(store, guard, clock)
        self.rates = Rates(store, guard, catalog, clock)
        self.outbox = Outbox(store, settings.home, clock)
        self.webhooks = Webhooks(store, guard, self.outbox, clock)
        self.reconcile = Reconcile(store, settings)
        self.proofs = Proofs(store, clock)
        self.files = Files(store, clock)
        self.batches = Batches(store, self.files, self.ledger, clock)
        prices = load_prices(configs_dir() / "prices.toml")
        self.retention = Retention(store, settings, clock)
        self.storage = StorageMeter(store, prices, clock)
        billing = Billing(catalog, prices, self.ledger, guard)
        self.jobs = Jobs(store, self.models, billing, launcher, clock, settings)
