"""The demo: train a recommender night after night, publish every night, and measure the effects on consumers."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embsync import config_loader
from embsync.config import Config
from embsync.demo import als, measure, stale, taste, titles
from embsync.demo.directory import DemoDirectory
from embsync.demo.measure import Embeddings, GenreClassifier
from embsync.demo.stale import Example, StaleFigures
from embsync.dtypes import Array
from embsync.errors import UsageError
from embsync.manifest import Manifest
from embsync.pipeline import Request, publish_snapshot
from embsync.progress import Progress, Stage, silent
from embsync.reader import StoreReader
from embsync.reader import open as open_store
from embsync.store import Store
from embsync.store.durable import storage_errors

SEED = 2025
#: Share of the items on which the genre classifier is trained; it is evaluated on the others.
_TRAINED_SHARE = 0.7
#: Share of the progress bar that is reserved for measuring.
_MEASURING = 0.05


@dataclass(frozen=True)
class NightFigures:
    """One night.

    Attributes
    ----------
    night, version : int
        The snapshot's night, and the version it became.
    items, users, likes : int
        Numbers in the training data.
    new_items, new_users : int
        Numbers that were not in the previous night.
    score_error, map_error, top_k_agreement : float
        The certificate in the manifest; see ``preservation`` in docs/store-format.md.
    item_cosine_raw, item_cosine : float or None
        Mean cosine of an item's vectors of this night and of the night before.
    auc_raw, auc_stable, auc_retrained : float
        AUC of a genre classifier trained on raw or stable vectors of night 1, or on this night's, evaluated on this
        night's vectors of items on which it was not trained.
    """

    night: int
    version: int
    items: int
    users: int
    likes: int
    new_items: int
    new_users: int
    score_error: float
    map_error: float
    top_k_agreement: float | None
    item_cosine_raw: float | None
    item_cosine: float | None
    auc_raw: float
    auc_stable: float
    auc_retrained: float


@dataclass(frozen=True)
class Story:
    """All figures of a demo.

    Attributes
    ----------
    directory, snapshots, store : Path
    seed : int
    width : int
        Of the embeddings.
    nights : tuple of NightFigures
    stale : tuple of StaleFigures
        Searches with vectors of the night before the last, and of night 1.
    example : Example
        The user with the median overlap.
    seconds : float
        Total wall-clock time.
    """

    directory: Path
    snapshots: Path
    store: Path
    seed: int
    width: int
    nights: tuple[NightFigures, ...]
    stale: tuple[StaleFigures, ...]
    example: Example
    seconds: float


@dataclass(frozen=True)
class _Trained:
    """One published night: its training data, the version's manifest, and its raw and stable vectors."""

    night: taste.Night
    manifest: Manifest
    raw: Embeddings
    stable: Embeddings


@dataclass(frozen=True)
class _Play:
    """The constants of a run of the demo."""

    place: DemoDirectory
    count: int
    seed: int
    world: taste.World
    settings: als.TrainingSettings
    known: taste.Catalogue
    progress: Progress

    def random(self, purpose: int, night: int = 0) -> np.random.Generator:
        """Return a separate generator for each purpose and night."""
        return np.random.default_rng([self.seed, purpose, night])


_TASTES, _LIKES, _TRAINING, _RETURN, _SPLIT = range(5)


def run(
    directory: Path,
    nights: int = 6,
    progress: Progress = silent,
    *,
    seed: int = SEED,
    world: taste.World | None = None,
    settings: als.TrainingSettings | None = None,
) -> Story:
    """Run the demo, with its snapshots and store in ``directory``.

    Parameters
    ----------
    directory : Path
        New, empty, or an earlier demo's, which is replaced.
    nights : int
        At least 2.
    progress : callable
        Called with the stage and the share of the total work that is done.
    seed : int
        The same seed gives the same figures.
    world, settings : optional
        Other sizes or churn; other training settings.

    Raises
    ------
    UsageError
        Too few nights, or a directory that holds something else.
    EmbsyncError
        An error of the pipeline.
    """
    if nights < 2:
        raise UsageError("too few nights to compare", found=nights, expected="2 or more")
    begin = time.perf_counter()
    place, world = DemoDirectory(directory.absolute()), world or taste.World()
    place.prepare()
    known = taste.catalogue(world, nights, np.random.default_rng([seed, _TASTES]))
    play = _Play(place, nights, seed, world, settings or als.TrainingSettings(), known, progress)
    with storage_errors(place.root):
        _write_titles(place, known)
        trained = list(_nights(play))
        progress("measuring", 1 - _MEASURING)
        with open_store(place.store) as store:
            stale_figures, example = _stale(play, trained, store)
    figures = _figures(play, trained)
    progress("done", 1.0)
    return Story(
        place.root,
        place.snapshots,
        place.store,
        seed,
        play.settings.factors,
        figures,
        stale_figures,
        example,
        round(time.perf_counter() - begin, 2),
    )


def _nights(play: _Play) -> Iterator[_Trained]:
    """Train, write a snapshot, publish it, and read both back as a consumer does."""
    store, parsed = Store(play.place.store), _configuration(play)
    for night in taste.nights(play.world, play.known, play.count, play.random(_LIKES)):
        stage = Stage(f"night {night.number}", play.count / (1 - _MEASURING), "nights")
        play.progress(stage, (night.number - 1) / stage.amount)
        model = als.train(night.likes, play.settings, play.random(_TRAINING, night.number))
        path = play.place.write_snapshot(
            night.number, play.known.item_ids[night.items], model.items, play.known.user_ids[night.users], model.users
        )
        manifest = publish_snapshot(store, Request(path), parsed)
        with open_store(play.place.store) as published:
            yield _Trained(night, manifest, measure.of_snapshot(path), measure.of_version(published.current))


def _configuration(play: _Play) -> Config:
    """Return the default configuration, independent of the environment, but with all nights kept."""
    options = {
        "store.path": str(play.place.store),
        "store.keep_versions": play.count,
        "snapshot.labels": ["title", "genre"],
    }
    return config_loader.load(environment={}, options=options)


def _figures(play: _Play, trained: list[_Trained]) -> tuple[NightFigures, ...]:
    chosen = play.random(_SPLIT).random(len(play.known.item_ids)) < _TRAINED_SHARE
    before: list[_Trained | None] = [None, *trained[:-1]]
    return tuple(
        _night_figures(play, chosen, trained[0], previous, night)
        for previous, night in zip(before, trained, strict=True)
    )


def _night_figures(play: _Play, chosen: Array, first: _Trained, before: _Trained | None, now: _Trained) -> NightFigures:
    kept, items, users = now.manifest.preservation, now.manifest.items, now.manifest.users
    assert users is not None
    raw, stable, retrained = (
        _auc(play, chosen, *pair)
        for pair in ((first.raw, now.raw), (first.stable, now.stable), (now.stable, now.stable))
    )
    return NightFigures(
        night=now.night.number,
        version=now.manifest.version,
        items=items.live,
        users=users.live,
        likes=now.night.likes.nnz,
        new_items=items.new,
        new_users=users.new,
        score_error=kept.score_error,
        map_error=kept.map_error,
        top_k_agreement=kept.top_k_agreement,
        item_cosine_raw=None if before is None else measure.item_cosine(before.raw, now.raw),
        item_cosine=None if before is None else measure.item_cosine(before.stable, now.stable),
        auc_raw=raw,
        auc_stable=stable,
        auc_retrained=retrained,
    )


def _auc(play: _Play, chosen: Array, trained_on: Embeddings, judged_on: Embeddings) -> float:
    """Train on vectors of the chosen items of one night and evaluate on vectors of the other items of another night."""
    rows = measure.rows_of(trained_on.item_ids, play.known.item_ids)
    use = chosen[rows]
    classifier = GenreClassifier.train(trained_on.items[use], play.known.genres[rows[use]], len(titles.GENRES))
    rows = measure.rows_of(judged_on.item_ids, play.known.item_ids)
    use = ~chosen[rows]
    return classifier.auc(judged_on.items[use], play.known.genres[rows[use]])


def _stale(play: _Play, trained: list[_Trained], store: StoreReader) -> tuple[tuple[StaleFigures, ...], Example]:
    last, version = trained[-1], store.current
    back = stale.returning(last.night, play.known, last.raw, play.world, play.settings, play.random(_RETURN))
    earlier = [trained[-2]] if len(trained) == 2 else [trained[-2], trained[0]]
    results = [stale.search(back, then.night.number, then.raw, last.raw, then.stable, version) for then in earlier]
    figures, kept, ids = results[0]
    median = int(ids[np.argsort(kept, kind="stable")[len(ids) // 2]])
    shown = stale.example(back, median, figures.night, trained[-2].raw, last.raw, version, play.known)
    return tuple(figures for figures, _, _ in results), shown


def _write_titles(place: DemoDirectory, known: taste.Catalogue) -> None:
    """Write the titles of all items."""
    with place.titles.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("id", "title", "genre"))
        lines.writerows(
            (int(item), titles.title(number), titles.GENRES[genre])
            for number, (item, genre) in enumerate(zip(known.item_ids, known.genres, strict=True))
        )
