"""A version for consumers: immutable, pinned while it is open, never mixed with another."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from embsync import index
from embsync.alignment.transform import Transform
from embsync.dtypes import Array, Bool, Float32
from embsync.errors import UsageError
from embsync.manifest import FORMAT_OF_PARTS, RowCounts
from embsync.reader.diff import Diff, diff
from embsync.reader.given_ids import Ids, Missing, check_missing
from embsync.reader.labels import Frozen, Where, matching, remembered, values_of
from embsync.reader.lineage import MaxAge
from embsync.reader.maps import Maps
from embsync.reader.movement import Movement, movement
from embsync.reader.search import Filter, Filters, Query, narrowed, of_known, stable_queries
from embsync.reader.side import Side
from embsync.reader.version_files import FLOAT32, FLOAT64, IDS, INTEGER, VersionFiles
from embsync.sides import NAMES, SideName, Sides
from embsync.store import layout

SpaceName = Literal["stable", "snapshot"]


class Version(VersionFiles):
    """One published version.

    While it is open, a shared lock keeps ``prune`` from deleting its files. Close it or use it as a
    context manager; when it is collected unclosed, the lock is released with a ResourceWarning. Safe to use from
    several threads, and after a fork: the lock lasts until the last process has released it.

    Parameters
    ----------
    path : path
        The version's directory.
    indexed : bool
        Whether the index must be intact. A publisher only reads rows, and replaces a damaged index.

    Raises
    ------
    StoreError
        The version is damaged.
    FileNotFoundError
        It was deleted before it could be pinned.
    """

    def open_files(self) -> None:
        """Map the files for search, lookup and fold-in, so that the first query is as fast as later ones.

        Raises
        ------
        StoreError
            A file is missing or damaged, or the index needs a newer FAISS.
        """
        for side in self.sides:
            side.prepare()
        self.transform.maps.invertible  # noqa: B018  (cached: reads the maps)
        self.searcher  # noqa: B018  (cached: maps the index)

    @cached_property
    def items(self) -> Side:
        """The items."""
        return self._side("items", self.record.items)

    @cached_property
    def users(self) -> Side | None:
        """The users, None on a one-sided store."""
        return None if self.record.users is None else self._side("users", self.record.users)

    @property
    def sides(self) -> Sides[Side]:
        """The items and, unless the store is one-sided, the users."""
        return Sides(self.items, self.users)

    def side(self, name: SideName) -> Side:
        """Return a side by name.

        Parameters
        ----------
        name : {"items", "users"}
            Which side.

        Raises
        ------
        UsageError
            The store has no users, or there is no such side.
        """
        if name not in ("items", "users"):
            raise UsageError("no such side", found=repr(name), expected="items or users")
        side = self.items if name == "items" else self.users
        if side is None:
            raise UsageError("the store has no users", where=self.path, found="a one-sided store")
        return side

    def labels_of(self, ids: Ids, names: Sequence[str] | None = None) -> dict[str, list[Any]]:
        """Return labels of items.

        Parameters
        ----------
        ids : (n,) integers or strings
            Item ids, of the store's type.
        names : sequence of str, optional
            The labels; default: all.

        Returns
        -------
        dict
            For each label, a list of n values; None for null and for unknown items.

        Raises
        ------
        UsageError
            An unknown label, or ids of the wrong type.
        """
        return values_of(self, self.items.rows(ids), names)

    @cached_property
    def transform(self) -> Maps:
        """The maps between raw vectors of this version's snapshot and the space."""
        shape = (self.record.snapshot.width, self.record.dimension)
        maps = self.record.sides.map(lambda _, name: self._map(f"transform/{name}.npy", FLOAT64, shape), NAMES)
        return Maps(Transform(maps.items, maps.users, self._map(layout.SINGULAR_VALUES, FLOAT64, (None,))))

    @cached_property
    def searcher(self) -> index.Searcher:
        """The mapped index."""
        record = self.record
        found = index.Searcher.open(self.path / layout.INDEX, self.index_rows, record.index, record.items.live)
        self._require_in_place()
        return found

    @cached_property
    def matches(self) -> Callable[[str, Frozen], Bool]:
        """A function that finds the rows that meet a condition on a label, with an LRU cache."""
        return remembered(self.labels, self.record.items.rows)

    def search(
        self,
        queries: Array,
        k: int = 10,
        *,
        space: SpaceName = "stable",
        snapshot: Version | None = None,
        allowed: Filter = None,
        blocked: Filter = None,
        where: Where = None,
        parameters: Mapping[str, int] | None = None,
    ) -> tuple[Array, Float32]:
        """Return the live items nearest to each query by the store's metric.

        Parameters
        ----------
        queries : (q, d) or (d,) array
            User vectors (item-like vectors on a one-sided store).
        k : int
            Neighbours per query, at most the number of live items that may be found.
        space : {"stable", "snapshot"}
            The basis of the queries: the stable space, or the raw basis of a snapshot.
        snapshot : Version, optional
            The version whose snapshot has the basis of raw queries; default: this one.
        allowed, blocked : ids, or a list with ids or None for each query, optional
            Only these items may be found; these must not be found. Ids that are not items of this version are ignored.
        where : mapping, optional
            Conditions on labels, all of which must hold: a value, a list of alternatives, or an inclusive range of
            numbers ``{"min": 5, "max": 20}``, with either bound optional. None is null.
        parameters : mapping, optional
            Search effort such as ``{"efSearch": 100}``; default: determined by the recall gate.

        Returns
        -------
        ids : (q, k) ndarray
            int64 or str; -1 or "" where the index found fewer.
        scores : (q, k) float32
            Descending; equal scores by ascending id; -inf where an id is missing.

        Raises
        ------
        UsageError
            Queries of the wrong width or with NaN, ``k`` below 1, unknown parameters or labels, or values of the wrong
            type.
        """
        vectors = stable_queries(self, queries, space, snapshot)
        filters = Filters(allowed, blocked, matching(self, where))
        rows, scores = narrowed(self, Query(vectors, k, parameters), filters)
        return self.items.names(rows), scores

    def search_by_user(
        self,
        ids: Ids,
        k: int = 10,
        *,
        missing: Missing = "raise",
        max_age: MaxAge | None = None,
        allowed: Filter = None,
        blocked: Filter = None,
        where: Where = None,
        parameters: Mapping[str, int] | None = None,
    ) -> tuple[Array, Float32]:
        """Return the live items nearest to each user, live or carried; see :meth:`search`.

        Parameters
        ----------
        ids : (q,) integers or strings
            Users, live or carried.
        k, allowed, blocked, where, parameters
            As in :meth:`search`.
        missing : {"raise", "nan", "mean"}
            For an unknown user: an error, no results, or the results of the mean user.
        max_age : int, str or timedelta, optional
            Users last in a snapshot longer ago count as unknown; see :meth:`Side.lookup`.

        Returns
        -------
        ids : (q, <= k) item ids
            A row for each user, best first; as in :meth:`search`.
        scores : (q, <= k) float32
            Their scores.

        Raises
        ------
        NotFoundError
            A user is unknown and ``missing`` is "raise".
        UsageError
            The version has no users, ids are of a different type from the store's, or as in :meth:`search`.
        StoreError
            A file of the version is damaged, or its index needs a newer FAISS.
        """
        return self._search_by(
            "users", ids, Filters(allowed, blocked, matching(self, where)), missing, max_age, k, parameters
        )

    def search_by_item(
        self,
        ids: Ids,
        k: int = 10,
        *,
        missing: Missing = "raise",
        max_age: MaxAge | None = None,
        allowed: Filter = None,
        blocked: Filter = None,
        where: Where = None,
        parameters: Mapping[str, int] | None = None,
    ) -> tuple[Array, Float32]:
        """Return the live items nearest to each item, without the item itself; see :meth:`search`.

        Parameters
        ----------
        ids : (q,) integers or strings
            Items, live or carried.
        k, allowed, blocked, where, parameters
            As in :meth:`search`.
        missing, max_age
            As in :meth:`search_by_user`.

        Returns
        -------
        ids, scores
            As from :meth:`search`.

        Raises
        ------
        NotFoundError
            An item is unknown and ``missing`` is "raise".
        UsageError
            Ids are of a different type from the store's, or as in :meth:`search`.
        StoreError
            A file of the version is damaged, or its index needs a newer FAISS.
        """
        return self._search_by(
            "items", ids, Filters(allowed, blocked, matching(self, where)), missing, max_age, k, parameters
        )

    def diff(self, before: Version, *, limit: int = 20, labels: Sequence[str] | None = None) -> Diff:
        """Compare this version with an earlier one.

        Takes one pass over the rows of common ids, and two searches for the ten nearest items of a thousand users.

        Parameters
        ----------
        before : Version
            A version of the same store. In another space, only ids, neighbours and scores are compared.
        limit : int
            Ids to list of each kind: new, removed, moved most, with a changed label.
        labels : sequence of str, optional
            Labels to compare, and to show for the listed items; default: all of both versions.

        Returns
        -------
        Diff
            Counts and listed ids of each side, changed labels, and the overlap of the nearest items.

        Raises
        ------
        UsageError
            ``limit`` is below 0, neither version has a label, or the two have ids of different types.
        """
        if limit < 0:
            raise UsageError("not a number of ids", found=limit, expected="0 or more")
        return diff(before, self, limit=limit, labels=labels)

    def movement(self, ids: Ids, side: SideName = "items", *, missing: Literal["raise", "nan"] = "raise") -> Movement:
        """Return how ids moved over the kept versions of this space, up to the newest.

        Parameters
        ----------
        ids : sequence of int or str
            Ids of that side.
        side : {"items", "users"}
            The side of ``ids``.
        missing : {"raise", "nan"}
            For an id that is not in this version: an error, or NaN.

        Returns
        -------
        Movement
            Arrays with one row per id and one column per version.

        Raises
        ------
        NotFoundError
            An id is unknown and ``missing`` is "raise".
        UsageError
            Ids of the wrong type, or there is no such side.
        """
        versions = self.path.parent
        return movement(self, layout.version_numbers(versions), self._sibling, side, ids, missing)

    def _sibling(self, number: int) -> Version:
        return Version(self.path.parent / layout.version_name(number), indexed=False)

    def _search_by(
        self,
        name: SideName,
        ids: Ids,
        filters: Filters,
        missing: Missing,
        max_age: MaxAge | None,
        k: int,
        parameters: Mapping[str, int] | None,
    ) -> tuple[Array, Float32]:
        side = self.side(name)
        check_missing(missing)
        vectors = side.lookup(ids, "mean" if missing == "nan" else missing, max_age=max_age)
        unknown = ~side.known(ids, max_age) if missing == "nan" else None
        rows, scores = of_known(self, side, ids, Query(vectors, k, parameters), filters, unknown)
        return self.items.names(rows), scores

    def _side(self, name: SideName, counts: RowCounts) -> Side:
        owner = weakref.ref(self)
        if name == "users" and self.record.format == FORMAT_OF_PARTS:
            ids, vectors, last_seen = self._part_columns()
        else:
            ids = self._map(layout.side_file(name, "ids"), IDS, (counts.rows,))
            vectors = self._map(layout.side_file(name, "vectors"), FLOAT32, (counts.rows, self.record.dimension))
            last_seen = self._map(layout.side_file(name, "last_seen"), INTEGER, (counts.rows,))
        moments = self._computed(layout.side_file(name, "moments"), FLOAT64, (self.record.dimension + 1,))
        return Side(name, ids, vectors, last_seen, self._ancestry(), moments, lambda: _other_side(owner, name))


def _other_side(owner: weakref.ref[Version], name: str) -> Side:
    """Return the side whose products with ``name`` are scores: the other one, or the same on a one-sided store."""
    version = owner()
    if version is None:
        raise UsageError(
            "the version of this side was closed", hint="keep a reference to the version while you fold in"
        )
    return version.sides.queries if name == "items" else version.items
