"""Sinks: places outside the store where versions are served.

A sink keeps its own state: its versions, and which one its readers see. Any host can therefore continue the work of
another, and nothing about a sink needs to be stored elsewhere.

Delivering a version takes these steps, in this order, while the version is pinned:

1. :meth:`Sink.check`, :meth:`Sink.generations` and :meth:`Sink.current`, before any row is transferred;
2. :meth:`Sink.stage`, which readers do not see;
3. :meth:`Sink.probe`, which reads back and measures;
4. :meth:`Sink.commit`, which switches both sides at once;
5. :meth:`Sink.drop`, for generations beyond ``keep_versions``.

A process may be killed between and within any of them; the next run begins again with the first step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from embsync.errors import SinkConflict, SinkMoved
from embsync.reader import Version


@dataclass(frozen=True)
class Generation:
    """One version in a sink, as the sink itself describes it.

    Attributes
    ----------
    number : int
        The version's number.
    fingerprint : str
        sha256 of its ``manifest.json`` (:func:`fingerprint_of`): two stores may both have a version 5. Empty if an
        incomplete one does not record it.
    complete : bool
        Whether it is staged completely. An incomplete one is left by a run that died.
    space_id, created : str or None
        As in the manifest; None if an incomplete one does not record them.
    search : mapping
        Search parameters that reach the target recall in this sink; empty before :meth:`Sink.probe`, and for sinks
        that do not search.
    """

    number: int
    fingerprint: str
    complete: bool
    space_id: str | None = None
    created: str | None = None
    search: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """The contents of a sink for a staged version, and its measured recall.

    Attributes
    ----------
    items, users : int or None
        Rows that were counted in the sink, live and carried; ``users`` is None for a one-sided version.
    k, recall : int or None, float or None
        Share of the exact best ``k`` that the sink finds with ``search``; None for sinks that do not search, and for
        versions without queries.
    target : float or None
        The recall that ``search`` had to reach.
    search : mapping
        The sink's own search parameters, stored with the generation, where readers can see them.
    notes : tuple of str
        Remarks for users, such as what the sink cannot do; shown by ``status``.
    """

    items: int
    users: int | None
    k: int | None = None
    recall: float | None = None
    target: float | None = None
    search: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Sink(Protocol):
    """A place where versions are served. Constructing one does no I/O; its only argument is its configuration.

    Every method raises only errors of :mod:`embsync.errors`: :class:`SinkUnavailable` if a later attempt may succeed
    (unreachable, busy, full), :class:`SinkConflict` if another program or publisher interferes, :class:`SinkError` if
    it will fail until something is changed (password, permission, width). Their messages never contain a secret, and
    they are raised ``from None`` where the library's own exception might.

    A sink is used by one thread at a time, but several sinks may use one place: in other threads, processes or hosts.
    """

    def check(self, version: Version) -> tuple[str, ...]:
        """Raise unless the sink is reachable and accessible, is empty or embsync's, and can hold this version.

        Called before any row is transferred, since the version states width, kind of ids and metric. It changes nothing
        that a user would notice, but may create what only embsync uses.

        Returns
        -------
        tuple of str
            What was restored of this version, if it is the sink's current one.
        """

    def generations(self) -> list[Generation]:
        """Return the versions in the sink that carry embsync's mark, ascending by number.

        Both complete and incomplete ones. Anything without the mark is not listed, whatever its name.
        """

    def current(self) -> int | None:
        """Return the number of the version that readers see, or None before the first commit."""

    def stage(self, version: Version) -> None:
        """Load a version into the sink, invisible to its readers.

        Does nothing if the sink has all of it, and starts over if it has a part.

        Raises
        ------
        SinkConflict
            A version with this number and another fingerprint is there.
        """

    def probe(self, version: Version) -> Probe:
        """Count the rows of a staged version and measure its recall, with the cheapest search that reaches the target.

        Queries and exact neighbours come from :func:`embsync.delivery.queries.probe_queries`. The search parameters are
        stored with the generation.
        """

    def commit(self, number: int, expected: int | None) -> None:
        """Make readers see a staged version instead of ``expected``: compare and swap, both sides at once.

        A rollback is also a commit.

        Raises
        ------
        SinkMoved
            Readers see a version other than ``expected``; nothing was changed.
        SinkError
            The version is not staged completely.
        """

    def drop(self, number: int) -> None:
        """Remove a version that readers do not see; do nothing if it is not there.

        Waits a bounded time for readers that still use it. A partly removed version is listed as incomplete and
        removed by the next call. Anything without embsync's mark is left untouched.

        Raises
        ------
        SinkError
            It is the current one.
        SinkUnavailable
            It is still in use.
        """

    def close(self) -> None:
        """Release connections; the sink can be used again."""


def fingerprint_of(version: Version) -> str:
    """Return what identifies a version in addition to its number: the sha256 of its ``manifest.json``."""
    return hashlib.sha256(version.manifest_bytes).hexdigest()


def require_same(version: Version, fingerprint: str, where: str, hint: str) -> None:
    """Raise unless the version of this number in a sink is this version.

    Raises
    ------
    SinkConflict
        The fingerprints differ.
    """
    ours = fingerprint_of(version)
    if fingerprint != ours:
        raise SinkConflict(
            f"another version {version.number} is there",
            where=where,
            found=f"manifest sha256 {fingerprint[:12]}…",
            expected=f"{ours[:12]}…",
            hint=hint,
        )


def moved(where: str, current: int | None, expected: int | None) -> SinkMoved:
    """Return the error of a commit that finds a version other than the expected one."""
    return SinkMoved(
        "another publisher switched this sink",
        where=where,
        found=_number(current),
        expected=_number(expected),
        hint="the next attempt reads it again; check that no other store is delivered there",
    )


def _number(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
