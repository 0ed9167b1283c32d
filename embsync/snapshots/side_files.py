"""Find the files of each side in layouts whose files have columns.

A side is one file, or a directory of part files, perhaps in hive partitions; or the snapshot is a single side: a file,
or a directory that has only part files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from embsync.config import SnapshotConfig
from embsync.errors import SnapshotError
from embsync.snapshots.accounting import Claim
from embsync.snapshots.column_files import open_files
from embsync.snapshots.conversions import PARTITION
from embsync.snapshots.decoder_process import Decoders, Message
from embsync.snapshots.files import DEEPEST, Place
from embsync.snapshots.names import side_of
from embsync.snapshots.natural_order import natural_key
from embsync.snapshots.sides import ITEMS, USERS, IdentifiedSide
from embsync.snapshots.tables import SIDE_NAMES


@dataclass(frozen=True)
class ColumnFormat:
    """A format of files with columns.

    Attributes
    ----------
    suffixes : tuple of str
        Endings of its files.
    is_part : function of a Place
        Returns whether a file, not hidden, is of this format; inspects its name and first bytes.
    form : function of a Place and the configuration
        Returns how to read a file, for the decoder.
    """

    suffixes: tuple[str, ...]
    is_part: Callable[[Place], bool]
    form: Callable[[Place, SnapshotConfig], Message]

    def recognise(self, place: Place) -> bool:
        """Return whether the names at ``place`` are of this format."""
        return self._is_part(place, "file") if place.kind() == "file" else bool(self.find_sides(place))

    def claim(self, place: Place, _: SnapshotConfig) -> Claim:
        """Return which entries at ``place`` are read."""
        if place.kind() == "file":
            return Claim(frozenset({ITEMS}), as_items=frozenset({place.name}))
        found = self.find_sides(place)
        if found.get(ITEMS) == place:
            parts = frozenset(file.name for file in self.part_files(place))
            return Claim(frozenset({ITEMS}), parts, parts)
        inside = frozenset(
            "/".join(part.parts[len(place.parts) :])
            for child in found.values()
            if child.kind() == "directory"
            for part in self.part_files(child)
        )
        return Claim(frozenset(found), frozenset(child.name for child in found.values()), inside=inside)

    def open_sides(self, place: Place, config: SnapshotConfig) -> tuple[IdentifiedSide, IdentifiedSide | None]:
        """Return the sides at ``place``, checked by the headers of all their files."""
        decoders = Decoders()
        found = {ITEMS: place} if place.kind() == "file" else self.find_sides(place)
        if ITEMS not in found:
            raise SnapshotError(
                "incomplete snapshot",
                where=str(place),
                found=", ".join(p.name for p in found.values()),
                expected="items or itemFactors",
            )
        items, users = (
            None
            if side not in found
            else open_files(
                side,
                found[side],
                [(file, self.form(file, config)) for file in self.part_files(found[side])],
                decoders,
                config,
            )
            for side in (ITEMS, USERS)
        )
        assert items is not None
        return items, users

    def find_sides(self, place: Place) -> dict[str, Place]:
        """Return where each side is: a file, a directory of part files, or ``place`` itself for items alone."""
        entries = {name: kind for name, kind in place.entries().items() if not name.startswith((".", "_"))}
        sides: dict[str, Place] = {}
        for side, names in SIDE_NAMES.items():
            found = [
                place.child(name) for stem in names for end in ("", *self.suffixes) if (name := stem + end) in entries
            ]
            found = [child for child in found if self._is_side(child, entries[child.name])]
            if len(found) > 1:
                raise SnapshotError(
                    f"more than one file or directory for {side}",
                    where=str(place),
                    found=", ".join(child.name for child in found),
                    expected="one",
                )
            sides.update((side, child) for child in found)
        if set(sides) == {USERS} and any(side_of(name) == ITEMS for name in entries):
            return {}  # items are in another layout
        others = [name for name in entries if not name.endswith(self.suffixes) and side_of(name) is not None]
        if not sides and not others and any(self._is_side_alone(place, name) for name in entries):
            return {ITEMS: place}  # a directory of only part files, as autofaiss reads it
        return sides

    def part_files(self, place: Place) -> list[Place]:
        """Return the files of a side, part 9 before part 10."""
        if place.kind() == "file":
            return [place]
        _require_shallow(place)
        entries = {name: kind for name, kind in place.entries().items() if not name.startswith((".", "_"))}
        _reject_folders_and_links(place, entries)
        files: list[Place] = []
        for name in sorted(entries, key=natural_key):
            child = place.child(name)
            if entries[name] == "directory":
                files += self.part_files(child)
            elif name.endswith(self.suffixes) or self._is_part(child, entries[name]):
                files.append(child)  # even if its contents are of another format: it is refused, not skipped
        return files

    def _is_side_alone(self, place: Place, name: str) -> bool:
        return name.endswith(self.suffixes) and self._is_part(place.child(name), "file")

    def _is_side(self, child: Place, kind: str) -> bool:
        return (kind != "file" and child.name.endswith(self.suffixes)) or self._holds_parts(child, kind)

    def _holds_parts(self, child: Place, kind: str) -> bool:
        if kind != "directory":
            return self._is_part(child, kind)
        _require_shallow(child)
        return any(
            self._holds_parts(child.child(name), below)
            for name, below in child.entries().items()
            if below != "directory" or PARTITION.match(name)
        )

    def _is_part(self, place: Place, kind: str) -> bool:
        return kind == "file" and not place.name.startswith((".", "_")) and self.is_part(place)


def _reject_folders_and_links(place: Place, entries: Mapping[str, str]) -> None:
    folders = [name for name, kind in entries.items() if kind == "directory" and not PARTITION.match(name)]
    if folders:
        raise SnapshotError(
            "a directory among part files",
            where=str(place),
            found=", ".join(folders[:5]),
            expected="part files, or partitions such as bucket=1",
        )
    links = [name for name, kind in entries.items() if kind == "link" and ("." not in name or PARTITION.match(name))]
    if links:  # a link to a part or partition; without it, the side would be incomplete
        raise SnapshotError(
            "will not be opened",
            where=str(place.child(links[0])),
            found="a link",
            expected="a regular file or directory inside the snapshot",
            hint="copy the snapshot with cp -rL, which resolves links",
        )


def _require_shallow(place: Place) -> None:
    if len(place.parts) > DEEPEST:
        raise SnapshotError("directories nested too deeply", where=str(place), expected=f"at most {DEEPEST}")
