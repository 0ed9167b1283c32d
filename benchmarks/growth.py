"""How time grows with rows and with width, as one picture: the recipes and ``embsync.stabilize`` on the same arrays.

One item to five users, two nights as in `workload.py`, ids joined, best of alternating runs of each. The plain recipe
is left out beyond ``--plain-rows``, since its copies in float64 do not fit the memory. Results are kept in
``growth.json``, in which each run replaces its own shapes; the picture is drawn from all of them.

    python benchmarks/growth.py [--rows 10000 100000 1000000] [--widths 32 768] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import recipes
from pairs import best

import embsync

WIDTH, ROWS = 64, 120_000
HERE = Path(__file__).resolve().parent
RESULTS, PICTURE = HERE / "growth.json", HERE.parent / "docs" / "performance.svg"
NAMES = {"plain": "plain recipe", "expert": "an expert's recipe", "embsync": "embsync.stabilize, with certificate"}
#: Colours in light and dark mode.
STYLE = (
    "text{fill:#1a1f26}.page{fill:#fff}.grid{stroke:#e2e8f0}.plain{color:#b91c1c}.expert{color:#64748b}.embsync{color:#1d4ed8}"
    "@media(prefers-color-scheme:dark){text{fill:#e7eaee}.page{fill:#14171b}.grid{stroke:#2a3037}"
    ".plain{color:#ff8a80}.expert{color:#a3adb8}.embsync{color:#6ea8fe}}"
)


def nights(rows: int, width: int) -> Iterator[tuple[recipes.Table, recipes.Table]]:
    """Yield items and users of two nights; each night may be freed before the next is made."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    spectrum = (2.0 / (1.0 + np.arange(width, dtype=np.float32) / 8.0)).astype(np.float32)
    counts = rows // 6, rows - rows // 6

    def side(count: int, seed: int, night: int) -> recipes.Table:
        base = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
        base *= spectrum
        ids = np.arange(count)
        if night:
            step, moved = 100_000, np.random.default_rng(seed + 10)
            for start in range(0, count, step):
                part = base[start : start + step]
                part += moved.standard_normal(part.shape, dtype=np.float32) * spectrum * np.float32(0.45)
                part[:] = part @ turn
            ids = np.where(ids % 100 == 99, ids + count, ids)
        return recipes.Table(base, ids)

    for night in (0, 1):
        yield side(counts[0], 1, night), side(counts[1], 2, night)


def measured(rows: int, width: int, repeats: int, *, plain: bool) -> dict[str, dict[str, float]]:
    """Return wall and processor seconds of each way to align the second night."""
    made = nights(rows, width)
    items, users = next(made)
    anchors = embsync.stabilize(items.vectors, users.vectors, item_ids=items.ids, user_ids=users.ids).anchors
    works: dict[str, Callable[[], object]] = {}
    before = recipes.reference(items, users) if plain else None
    del items, users
    items, users = next(made)
    if before is not None:
        works["plain"] = lambda: recipes.plain(items, users, before)
        works["expert"] = lambda: recipes.expert(items, users, before)
    ids = {"item_ids": items.ids, "user_ids": users.ids}
    works["embsync"] = lambda: embsync.stabilize(items.vectors, users.vectors, **ids, anchors=anchors) and None
    spent = best(list(works.values()), repeats)
    return {name: {"wall": one.wall, "processor": one.processor} for name, one in zip(works, spent, strict=True)}


def picture(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the picture: seconds over rows, and over width, both on logarithmic axes."""
    shapes = {tuple(map(int, name.split("x"))): found for name, found in results.items()}
    left = {rows: found for (rows, width), found in sorted(shapes.items()) if width == WIDTH and rows != ROWS}
    right = {width: found for (rows, width), found in sorted(shapes.items()) if rows == ROWS}
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 360" font-family="sans-serif" font-size="12">',
        f'<style>{STYLE}</style><rect width="920" height="360" class="page"/>',
        *_panel(60, f"rows, {WIDTH} wide", left),
        *_panel(520, f"width, {ROWS:,} rows", right),
    ]
    for place, (name, label) in enumerate(NAMES.items()):
        x = 60 + 220 * place
        parts.append(
            f'<line x1="{x}" y1="345" x2="{x + 24}" y2="345" class="{name}" stroke="currentColor" stroke-width="2"/>'
        )
        parts.append(f'<text x="{x + 30}" y="349">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, title: str, found: dict[int, dict[str, dict[str, float]]]) -> Iterator[str]:
    """Yield one diagram, 360 x 250, of wall seconds."""
    seconds = [one["wall"] for by_name in found.values() for one in by_name.values()]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    first, last = math.log10(min(found)), math.log10(max(found))

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - first) / (last - first)
        return left + 360 * across, 290 - 250 * (math.log10(y) - low) / (high - low)

    yield f'<text x="{left + 180}" y="22" text-anchor="middle" font-size="14">wall seconds over {title}</text>'
    for power in range(low, high + 1):
        y = at(10**first, 10.0**power)[1]
        yield f'<line x1="{left}" y1="{y:.0f}" x2="{left + 360}" y2="{y:.0f}" class="grid"/>'
        yield f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{10.0**power:g}</text>'
    for value in found:
        x = at(value, 10.0**low)[0]
        yield f'<text x="{x:.0f}" y="308" text-anchor="middle">{_short(value)}</text>'
    for name in NAMES:
        points = [at(value, by_name[name]["wall"]) for value, by_name in found.items() if name in by_name]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{line}" fill="none" class="{name}" stroke="currentColor" stroke-width="2"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{name}" fill="currentColor"/>' for x, y in points)


def _short(value: int) -> str:
    return f"{value // 10**6}M" if value >= 10**6 else f"{value // 1000}k" if value >= 1000 else str(value)


def main() -> None:
    """Measure, keep the results and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--widths", type=int, nargs="*", default=[32, 64, 128, 256, 512, 768])
    parser.add_argument("--plain-rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for rows, width in [*((rows, WIDTH) for rows in options.rows), *((ROWS, width) for width in options.widths)]:
        found = measured(rows, width, options.repeats, plain=rows <= options.plain_rows)
        results[f"{rows}x{width}"] = found
        shown = (f"{name} {one['wall']:.3f} ({one['processor']:.3f})" for name, one in found.items())
        print(f"{rows:,} x {width}: wall (processor) seconds: {', '.join(shown)}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PICTURE.write_text(picture(results))


if __name__ == "__main__":
    main()
