"""For consumers: a store, its versions, lookup and search. Read-only; loads neither the watcher nor the daemon."""

from embsync.errors import ForeignSpace
from embsync.reader.follower import Follower, Health
from embsync.reader.pin import open_version
from embsync.reader.side import Side
from embsync.reader.store import StoreReader, open  # noqa: A004  (read as ``embsync.open``)
from embsync.reader.version import Version

__all__ = ["Follower", "ForeignSpace", "Health", "Side", "StoreReader", "Version", "open", "open_version"]
