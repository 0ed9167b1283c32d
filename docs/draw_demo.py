"""Draw docs/demo.svg from a real run of the demo: python docs/draw_demo.py

A flat view of the item vectors is chosen on night 1, so that three genres come apart, and the same view is kept on
later nights: once over raw vectors, once over stable ones.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import embsync
from embsync.demo import measure, story

#: Colour on light and on dark, which are those of reports: distinguishable with colour blindness.
GENRES = {"crime": ("#c04a00", "#f0934a"), "poetry": ("#0072b2", "#56b4e9"), "nature": ("#007a5a", "#3cc9a0")}
STYLE = (
    "path{stroke-width:5;stroke-linecap:round;stroke-opacity:.7}text{fill:#1a1f26}.page{fill:#fff}"
    ".panel{fill:#f6f7f9;stroke:#b6bec7}"
    + "".join(
        f".{name}{{stroke:{light}}}tspan.{name}{{fill:{light};stroke:none}}" for name, (light, _) in GENRES.items()
    )
    + "@media(prefers-color-scheme:dark){text{fill:#e7eaee}.page{fill:#14171b}.panel{fill:#1c2026;stroke:#4a535d}"
    + "".join(f".{name}{{stroke:{dark}}}tspan.{name}{{fill:{dark}}}" for name, (_, dark) in GENRES.items())
    + "}"
)
SHOWN = 70  # items a genre, those with the longest vectors: more is a smear at this size
PANEL, GAP, LEFT, TOP = 200, 16, 96, 58


def view(vectors, labels):
    """Return the plane through the three genre means (Fisher's discriminants), as an (e, 2) matrix, and its scale."""
    means = np.stack([vectors[labels == label].mean(axis=0) for label in np.unique(labels)])
    within = sum(np.cov(vectors[labels == label].T) for label in np.unique(labels))
    plane = np.linalg.solve(within, (means - means.mean(axis=0)).T) @ np.array([[1, 0], [-0.5, 0.866], [-0.5, -0.866]])
    flat = vectors @ plane
    plane = plane / np.percentile(np.abs(flat - flat.mean(axis=0)), 98, axis=0)
    return plane, (vectors @ plane).mean(axis=0)


def panel(x, y, points, labels, caption):
    lines = [f'<rect x="{x}" y="{y}" width="{PANEL}" height="{PANEL}" class="panel"/>']
    places = np.clip(points, -1.25, 1.25) * (1, -1) * PANEL / 2.6 + (x + PANEL / 2, y + PANEL / 2)
    for label in dict.fromkeys(labels):
        dots = "".join(f"M{a:.0f} {b:.0f}h0" for (a, b), mine in zip(places, labels, strict=True) if mine == label)
        lines.append(f'<path d="{dots}" class="{label}"/>')
    lines.append(f'<text x="{x + PANEL / 2}" y="{y + PANEL + 16}" text-anchor="middle" font-size="12">{caption}</text>')
    return lines


def main():
    with tempfile.TemporaryDirectory() as folder:
        result = story.run(Path(folder) / "demo")
        nights = [result.nights[0], result.nights[1], result.nights[-1]]
        raw = [measure.of_snapshot(result.snapshots / f"day={night.night}") for night in nights]
        with embsync.open(result.store) as store:
            stable = [measure.of_version(store.version(night.version)) for night in nights]
        genre_of = {
            int(line.split(",")[0]): line.rstrip().split(",")[2]
            for line in (result.directory / "items.csv").read_text().splitlines()[1:]
        }
    present = set.intersection(*(set(each.item_ids.tolist()) for each in raw))
    length = dict(zip(stable[0].item_ids.tolist(), np.linalg.norm(stable[0].items, axis=1), strict=True))
    ids = [
        item
        for genre in GENRES
        for item in sorted((i for i in present if genre_of[i] == genre), key=lambda i: -length[i])[:SHOWN]
    ]
    ids = np.sort(np.array(ids))
    labels = np.array([genre_of[int(item)] for item in ids])
    out = []
    for row, (name, spaces) in enumerate((("raw", raw), ("stable", stable))):
        y = TOP + row * (PANEL + 40)
        out.append(
            f'<text x="{LEFT - 14}" y="{y + PANEL / 2}" text-anchor="end" font-size="15" font-weight="bold">'
            f"{name}</text>"
        )
        plane, centre = view(spaces[0].items[measure.rows_of(ids, spaces[0].item_ids)], labels)
        for column, (night, space) in enumerate(zip(nights, spaces, strict=True)):
            x = LEFT + column * (PANEL + GAP)
            if row == 0:
                out.append(
                    f'<text x="{x + PANEL / 2}" y="{TOP - 10}" text-anchor="middle" font-size="13">'
                    f"night {night.night}</text>"
                )
            points = space.items[measure.rows_of(ids, space.item_ids)] @ plane - centre
            auc = night.auc_raw if name == "raw" else night.auc_stable
            out += panel(x, y, points, labels.tolist(), f"night-1 classifier: AUC {auc:.2f}")
    width, height = LEFT + 3 * PANEL + 2 * GAP + 16, TOP + 2 * (PANEL + 40) + 10
    key = "".join(f'<tspan class="{genre}" dx="12">● {genre}</tspan>' for genre in GENRES)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" class="page"/>'
        f'<text x="{LEFT}" y="22" font-size="14">Item vectors, in one view chosen on night 1{key}</text>'
    )
    Path(__file__).with_name("demo.svg").write_text("\n".join([head, *out, "</svg>"]) + "\n", encoding="utf-8")
    near = result.stale[0]
    print(f"stale overlap raw {near.overlap_raw:.3f}, stable {near.overlap_stable:.3f}")
    for night in nights:
        print(night)


if __name__ == "__main__":
    main()
