"""Verbs on views: made, opened for reading, shown, dropped."""

from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput
from luthier.platform.access import Caller
from luthier.platform.models import Opened, ViewInfo
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.privileges import Action
from luthier.platform.registry.grant_rows import GrantRows
from luthier.platform.registry.guard import Guard, in_schema, securable
from luthier.platform.registry.objects import check_no_other, lies_in, named_rows, no_view, object_row, seen_rows
from luthier.platform.registry.paging import ALL, MAX_SHOWN, Named, all_pages
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.registry.share_rows import ShareRows
from luthier.platform.registry.tables import to_table
from luthier.platform.registry.view_rows import READING, ViewRows, check_size
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.store import Row, Store
from luthier.platform.wire import IfThere


class Views:
    def __init__(self, store: Store, guard: Guard) -> None:
        self._store, self._guard, self._rows = store, guard, ViewRows(store, guard)
        self._grants, self._places, self._shares = GrantRows(store), PlaceRows(store), ShareRows(store)

    def beneath(self, caller: Caller, name: QualifiedName, view: ViewInfo, if_there: IfThere) -> Opened | None:
        """The view that is to be made, opened; None where that which is there is kept."""
        with self._store.reading() as tx:
            self._check_place(tx, caller, name)
            if self._is_kept(self._rows.find(tx, caller, name), name, if_there):
                return None
            return self._opened(tx, caller, name, _row(caller, name, view))

    def create(self, caller: Caller, name: QualifiedName, view: ViewInfo, if_there: IfThere = IfThere.REFUSE) -> bool:
        """False where that which is there is kept. The caller's role owns the view, and must read what is beneath."""
        row = _row(caller, name, view)
        with self._guard.change(caller) as tx:
            self._check_place(tx, caller, name)
            old = self._rows.find(tx, caller, name)
            if old and all(old[key] == value for key, value in row.items()):  # asked again
                return True
            if self._is_kept(old, name, if_there):
                return False
            self._opened(tx, caller, name, row)
            if old:
                self._drop(tx, caller, name, old)
            tx.execute(sa.insert(self._rows.views).values(**row))
            self._grants.begin(tx, caller, Securable.named(ObjectKind.VIEW, name), view.created_on)
        return True

    def open(self, caller: Caller, names: Sequence[QualifiedName]) -> Opened:
        """Those of the names that are tables and views which the caller may read."""
        with self._store.reading() as tx:
            tables, views = (self._rows.readable(tx, caller, kind, names) for kind in READING)
            opened = check_size(self._rows.open(tx, caller, views))
        return opened.model_copy(update={"named": tuple(map(to_table, tables.values()))})

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None) -> list[ViewInfo]:
        """Those that the caller may read, by their full names."""
        behind = parse_name(after, "", "") if after is not None else None
        with self._store.reading() as tx:
            read = partial(named_rows, self._rows.views, tx, caller)
            allowed = partial(self._guard.allowed, tx, caller, Action.READ_VIEW, ObjectKind.VIEW)
            return self._rows.told(tx, caller, seen_rows(read, allowed, behind, min(limit, MAX_SHOWN)))

    def drop(self, caller: Caller, name: QualifiedName) -> None:
        """What is beneath stays; views over it say that it is gone."""
        with self._guard.change(caller) as tx:
            row = self._rows.find(tx, caller, name)
            if row is None:
                raise no_view(name)
            self._drop(tx, caller, name, row)

    def remove(self, tx: sa.Connection, caller: Caller, place: Securable) -> None:
        """All that lie there, whoever asks, and what is granted on them: that is decided by then."""
        tx.execute(sa.delete(self._rows.views).where(lies_in(self._rows.views, caller.account, place)))

    def _drop(self, tx: sa.Connection, caller: Caller, name: QualifiedName, row: Row) -> None:
        about = securable(ObjectKind.VIEW, row)
        self._guard.check(tx, caller, Action.DROP_VIEW, about, lambda: no_view(name))
        self._grants.end(tx, caller.account, about)
        tx.execute(sa.delete(self._rows.views).where(self._rows.views.c.id == row["id"]))

    def _check_place(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> None:
        self._guard.check(tx, caller, Action.CREATE_VIEW, in_schema(name))
        self._shares.check_own(tx, caller.account, name.database)
        self._places.check_there(tx, caller.account, in_schema(name))
        check_no_other(tx, self._rows.tables, ObjectKind.TABLE, caller, name)

    def _opened(self, tx: sa.Connection, caller: Caller, name: QualifiedName, row: Row) -> Opened:
        opened = self._rows.open(tx, caller, {name.dotted: row})
        if any(name.dotted in each.reads for each in opened.views.values()):
            raise InvalidInput(f"View definition for '{name.dotted}' refers to view being defined.")
        return check_size(opened)

    def _is_kept(self, old: Row | None, name: QualifiedName, if_there: IfThere) -> bool:
        if old and if_there is IfThere.REFUSE:
            raise Conflict(f"Object '{name.dotted}' already exists. Drop it first, or replace it.")
        return old is not None and if_there is IfThere.KEEP


def all_views(views: Views, caller: Caller, most: int, wanted: Named = ALL) -> list[ViewInfo]:
    """At most so many."""
    show = partial(views.show, caller)
    return all_pages(show, lambda view: view.name, most, lambda view: wanted.fits_name(parse_name(view.name, "", "")))


def _row(caller: Caller, name: QualifiedName, view: ViewInfo) -> Row:
    own = view.model_dump(exclude={"name", "owner", "role", "created_on"})
    return {**object_row(caller, name, view.created_on), **own}
