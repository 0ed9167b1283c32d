"""Searches with filters and labels during publishes and relabelling: all responses are right, and memory stays flat.

``EMBSYNC_LOAD_SECONDS`` is the duration of the long run (600), with 60 nights and as many changes of labels.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.http import Server, anonymous_memory, serving
from support.quick import quick_directory
from support.stores import running
from support.waiting import PATIENCE
from torture.report import Tally, tally

pytest.importorskip("pyarrow")

from torture.labelled import NAMES, SIZES, Question, catalogue, change_labels, made, publish

SECONDS = float(os.environ.get("EMBSYNC_LOAD_SECONDS", "600"))
NIGHTS = 60
#: Responses that a run has at least, even on a slow machine.
LEAST = 20
MIB = 1 << 20
#: The allowed growth of memory after the first two fifths of a run; measured: 2 MiB in ten minutes.
FLAT = 24 * MIB


@pytest.fixture
def root() -> Iterator[Path]:
    """A store with one version."""
    with quick_directory() as directory:
        publish(directory / "S", 0, 0)
        yield directory / "S"


class Load:
    """A store that changes, and HTTP clients that search it."""

    def __init__(self, root: Path, server: Server) -> None:
        self.root = root
        self.server = server
        self.stop = threading.Event()
        self.versions = {1: (0, 0)}  # the night and the turn of labels of each version
        self.failures: list[str] = []
        self.answers = 0
        self.lock = threading.Lock()

    def change(self, operation: int) -> None:
        """Publish the next night, or other labels for the last one."""
        number = (operation + 1) // 2
        act = publish if operation % 2 else change_labels
        self.versions[act(self.root, number, operation)] = (number, operation)

    def of(self, version: int) -> tuple[int, int]:
        """Return the night and the turn of a version, which may be served before its publisher has returned."""
        end = time.monotonic() + 60
        while version not in self.versions and time.monotonic() < end:
            time.sleep(0.01)
        return self.versions[version]

    def client(self, seed: int) -> None:
        """Send requests on one connection until the end, and check each response."""
        chance, connection = random.Random(seed), self.server.connect()
        while not self.stop.is_set():
            asks = chance.choice([self.search, self.search, self.search, self.search_by_url, self.lookup])
            try:
                wrong = asks(chance, connection)
            except Exception as error:  # such as a closed connection or invalid JSON: a failed request
                wrong, connection = f"{asks.__name__}: {error!r}", self.server.connect()
            with self.lock:
                self.answers += 1
                if wrong is not None:
                    self.failures.append(wrong)
        connection.close()

    def search(self, chance: random.Random, connection: HTTPConnection) -> str | None:
        """Search with a request body."""
        question = self.question(chance)
        fields = {**question.fields(), "labels": list(NAMES), "null_ids": True}
        if question.kind != "vectors":
            fields["missing"] = "nan"
        return self.searched(question, self.server.ask("/v1/search", fields, connection=connection))

    def search_by_url(self, chance: random.Random, connection: HTTPConnection) -> str | None:
        """Search with ids and conditions in the URL."""
        question = self.question(chance)
        if question.kind == "vectors" or question.allowed is not None or question.blocked is not None:
            return self.search(chance, connection)
        fields = {question.kind: question.asked, "k": question.k, "labels": NAMES, "missing": "nan", "null_ids": "true"}
        if question.where is not None:
            fields["where"] = json.dumps(question.where)
        path = f"/v1/search?{urlencode(fields, doseq=True)}"
        return self.searched(question, self.server.ask(path, connection=connection))

    def question(self, chance: random.Random) -> Question:
        """Return a random search for items of the newest version."""
        return Question.any(chance, list(catalogue(*self.versions[max(self.versions)])))

    def searched(self, question: Question, answer: Any) -> str | None:
        """Return what is wrong with the response to a search."""
        if answer.status != 200:
            return f"{answer.status} {answer.body[:300]!r} to {question}"
        plain = answer.plain
        if plain["version"] != answer.version:
            return f"version {plain['version']} in the body, {answer.version} in the head"
        number, turn = self.of(answer.version)
        items = catalogue(number, turn)
        hits = []
        for ids, scores, labels in zip(plain["ids"], plain["scores"], plain["labels"], strict=True):
            found = [hit for hit in zip(ids, scores, labels, strict=True) if hit[0] is not None]
            for item, _, shown in found:
                if item not in items or shown != items[item]:
                    return f"item {item} of version {answer.version} has labels {shown}, not {items.get(item)}"
            hits.append([(item, score) for item, score, _ in found])
        sure: dict[Any, bool] = dict.fromkeys((-5, -6), False)
        sure |= dict.fromkeys(made(number).user_ids.tolist(), True)
        if question.kind == "items":
            sure = dict.fromkeys(items, True)
        known = [True if question.kind == "vectors" else sure.get(one) for one in question.asked]
        return question.wrong(number, turn, known, hits)

    def lookup(self, chance: random.Random, connection: HTTPConnection) -> str | None:
        """Look up some items of the newest version and an unknown one."""
        asked = [*chance.choices(list(catalogue(*self.versions[max(self.versions)])), k=5), -5]
        fields = {"side": "items", "ids": asked, "labels": list(NAMES), "missing": "nan"}
        answer = self.server.ask("/v1/lookup", fields, connection=connection)
        if answer.status != 200:
            return f"{answer.status} {answer.body[:300]!r} to a lookup"
        items, plain = catalogue(*self.of(answer.version)), answer.plain
        nothing = dict.fromkeys(NAMES)
        for item, age, vector, labels in zip(asked, plain["ages"], plain["vectors"], plain["labels"], strict=True):
            if item in items and (age != 0 or labels != items[item] or None in vector):
                return f"live item {item} of version {answer.version}: age {age}, {labels}, not {items[item]}"
            if item == -5 and (age is not None or labels != nothing or vector != [None] * SIZES["width"]):
                return f"an item that is not there: {age}, {labels}"
        return None


def run(root: Path, seconds: float, nights: int, made_up: Tally) -> None:
    """Publish nights, and change labels as often, in a number of seconds under load."""
    with serving(root) as server, running("from torture.labelled import main; main()", root, 7) as reader:
        assert reader.stdout is not None
        said: list[str] = []
        listening = threading.Thread(target=lambda: said.extend(reader.stdout), daemon=True)
        load = Load(root, server)
        clients = [threading.Thread(target=load.client, args=(seed,)) for seed in range(3)]
        for thread in (listening, *clients):
            thread.start()
        began, memory = time.monotonic(), []
        for operation in range(1, 2 * nights):
            load.change(operation)
            memory.append(anonymous_memory(server.process.pid))
            time.sleep(max(0.0, began + seconds * operation / (2 * nights) - time.monotonic()))
        while load.answers < LEAST and time.monotonic() < began + seconds + PATIENCE:
            time.sleep(0.01)
        load.stop.set()
        for thread in clients:
            thread.join(PATIENCE)
        assert reader.stdin is not None
        reader.stdin.close()
        assert reader.wait(PATIENCE) == 0
        listening.join(PATIENCE)
        lines = [line.rstrip("\n").split("\t") for line in said]
        made_up.points = load.answers + int(lines[-1][0])
        for wrong in [*load.failures, *(line[3] for line in lines if line[3])]:
            made_up.harm("torn", wrong)
        for who, held in (("server", memory), ("reader", [int(line[2]) for line in lines])):
            fifth = max(1, len(held) // 5)
            grown = max(held[-fifth:]) - max(held[: 2 * fifth])
            print(f"{who}: {held[0] / MIB:.0f} MiB at first, {max(held) / MIB:.0f} at most, {grown / MIB:+.1f} later")
            if grown > FLAT:
                made_up.harm("unrepaired", f"{who} grew by {grown / MIB:.0f} MiB")
        print(f"{load.answers} answers over HTTP from {len(load.versions)} versions, {lines[-1][0]} in Python")
        if int(lines[-1][1]) < nights / 2:
            made_up.harm("lost", f"the reader saw {lines[-1][1]} versions")
        if server.process.poll() is not None:
            made_up.harm("unrepaired", "the server ended")


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize(("seconds", "nights"), [(1.0, 2), pytest.param(SECONDS, NIGHTS, marks=pytest.mark.torture)])
def test_every_answer_is_right_while_versions_and_labels_change(root: Path, seconds: float, nights: int) -> None:
    """No request fails; each response belongs to the version it names, meets its filters, and is complete."""
    with tally("filters and labels under load", least=LEAST) as made_up:
        run(root, seconds, nights, made_up)
