"""Configuration: the precedence of its sources, and errors that name the nearest valid key or value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from embsync.config import DEFAULT_LIMITS, CheckLimits, Config, LimitsConfig, ServeConfig, StoreConfig
from embsync.config_loader import load
from embsync.errors import UsageError

EXAMPLE = Path(__file__).resolve().parents[1] / "config.example.yaml"


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "embsync.yaml"
    path.write_text(text)
    return path


def test_everything_has_the_documented_default() -> None:
    """Without a file, variables and options, every key has the documented default."""
    config = load(environment={})
    assert config == Config()
    assert config.store.path == "embsync-store"
    assert (config.store.keep_versions, config.store.carry_forward_versions) == (5, 30)
    assert (config.space.dimension, config.space.standardize, config.space.max_truncation_loss) == (None, True, 0.0)
    anchors = config.space.anchors
    assert (anchors.policy, anchors.weight, anchors.rows) == (None, 0.3, 100_000)
    assert (anchors.parent_share, anchors.slow_weight) == (0.45, 0.001)
    assert (config.watch.complete, config.watch.settle_seconds, config.watch.rescan_seconds) == ("auto", 30, 15)
    assert (config.index.factory, config.index.metric, config.index.target_recall) == ("auto", "inner_product", 0.95)
    assert config.snapshot.max_bytes == 256 * 1024**3
    assert config.threads == 0


def test_options_override_environment_file_and_defaults(tmp_path: Path) -> None:
    """Each key has the value of the strongest source that sets it; other keys keep their defaults."""
    path = _file(tmp_path, "space:\n  anchors: {policy: first, weight: 0.5, rows: 10}\nthreads: 1\n")
    environment = {"EMBSYNC_SPACE__ANCHORS__WEIGHT": "0.6", "EMBSYNC_SPACE__ANCHORS__ROWS": "20", "HOME": "/"}
    config = load(path, environment, {"space.anchors.rows": 30})
    anchors = config.space.anchors
    assert (anchors.policy, anchors.weight, anchors.rows, config.threads) == ("first", 0.6, 30, 1)
    assert config.space.standardize is True


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the process are read without being passed; those set for ``on_publish`` are ignored."""
    monkeypatch.setenv("EMBSYNC_STORE__KEEP_VERSIONS", "9")
    monkeypatch.setenv("EMBSYNC_VERSION", "4")
    monkeypatch.setenv("EMBSYNC_PATH", "/somewhere")
    assert load().store.keep_versions == 9


def test_variables_are_parsed_as_yaml() -> None:
    """Numbers, booleans, null, ranges and entire sections are parsed as YAML."""
    config = load(
        environment={
            "EMBSYNC_SPACE__STANDARDIZE": "false",
            "EMBSYNC_INDEX__METRIC": "cosine",
            "EMBSYNC_STORE__ON_PUBLISH": "null",
            "EMBSYNC_CHECKS__NORM_RATIO_ITEMS__WARN": "[0.7, 1.4]",
            "EMBSYNC_CHECKS__COSINE_ITEMS": "{refuse: null}",
        }
    )
    assert config.space.standardize is False
    assert config.index.metric == "cosine"
    assert config.checks["norm_ratio_items"] == CheckLimits(warn=(0.7, 1.4))
    assert config.checks["cosine_items"] == CheckLimits(refuse=None)
    assert config.checks["cosine_items"].warn is msgspec.UNSET


def test_a_configuration_is_frozen() -> None:
    """A configuration cannot be changed after it was parsed."""
    with pytest.raises(AttributeError):
        load(environment={}).store.keep_versions = 7


@pytest.mark.parametrize(
    ("text", "dotted", "nearest"),
    [
        ("stor: {}", "stor", "store"),
        ("store: {keep_version: 3}", "store.keep_version", "store.keep_versions"),
        ("space: {anchors: {polcy: first}}", "space.anchors.polcy", "space.anchors.policy"),
        ("checks: {cosine_item: {warn: 0.7}}", "checks.cosine_item", "checks.cosine_items"),
        ("checks: {cosine_items: {wann: 0.7}}", "checks.cosine_items.wann", "checks.cosine_items.warn"),
        ("index: {metrik: l2}", "index.metrik", "index.metric"),
        ("serve: {limits: {batches: 5}}", "serve.limits.batches", "serve.limits.batch"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(tmp_path: Path, text: str, dotted: str, nearest: str) -> None:
    """A misspelt key at any level is reported with the nearest valid one."""
    with pytest.raises(UsageError, match=rf"embsync\.yaml: .*found '{dotted}'; hint: did you mean '{nearest}'\?"):
        load(_file(tmp_path, text), {})


def test_an_unknown_key_without_a_suggestion_lists_all_keys() -> None:
    """All keys are listed, also for an unknown key from the environment."""
    with pytest.raises(UsageError, match=r"found 'qqqq'; hint: known keys: watch, snapshot, store"):
        load(environment={"EMBSYNC_QQQQ": "1"})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("threads: many", "threads"),
        ("threads: -1", "threads"),
        ("store: {keep_versions: 0}", "store.keep_versions"),
        ("store: {keep_versions: 2.5}", "store.keep_versions"),
        ("store: {path: 5}", "store.path"),
        ("space: {standardize: 1}", "space.standardize"),
        ("space: {anchors: {policy: best}}", "space.anchors.policy"),
        ("space: {anchors: {weight: 0}}", "space.anchors.weight"),
        ("space: {anchors: {weight: 1.5}}", "space.anchors.weight"),
        ("space: {max_truncation_loss: 1.1}", "space.max_truncation_loss"),
        ("watch: {rescan_seconds: 0}", "watch.rescan_seconds"),
        ("watch: {rescan_seconds: .inf}", "watch.rescan_seconds"),
        ("index: {target_recall: 95}", "index.target_recall"),
        ("serve: {workers: 0}", "serve.workers"),
        ("serve: {workers: 257}", "serve.workers"),
        ("serve: {rescan_seconds: 0}", "serve.rescan_seconds"),
        ("serve: {limits: {neighbours: 0}}", "serve.limits.neighbours"),
        ("serve: {limits: {body: 0 MiB}}", "serve.limits.body"),
        ("serve: {limits: {seconds: 0}}", "serve.limits.seconds"),
        ("checks: {cosine_items: 0.5}", "checks"),
        ("checks: {norm_ratio_items: {warn: [1]}}", "checks"),
        ("store: 7", "store"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named(tmp_path: Path, text: str, key: str) -> None:
    """The message names the key as it is written in the file, its value, and what is allowed."""
    with pytest.raises(UsageError, match=rf"embsync\.yaml: {key}\S*: wrong value; found .+; expected .+"):
        load(_file(tmp_path, text), {})


def test_an_invalid_choice_lists_the_valid_ones() -> None:
    """The message lists the valid choices, the limit of a number, or the value found in place of a section."""
    for options, reported in (
        ({"watch.order": "size"}, "watch.order: wrong value; found 'size'; expected auto, name, mtime"),
        ({"serve.workers": 0}, "serve.workers: wrong value; found 0; expected int >= 1"),
        ({"serve.limits": 5}, "serve.limits: wrong value; found 5; expected a section"),
        ({"log.level": None}, "log.level: wrong value; found null; expected debug, info"),
    ):
        with pytest.raises(UsageError, match=f"configuration: {reported}"):
            load(environment={}, options=options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index: {metric: cosine}", "metric: cosine contradicts space.standardize: true"),
        ("index: {metric: l2}", "metric: l2 contradicts space.standardize: true"),
        ("checks: {norm_ratio_items: {refuse: 2.0}}", r"wrong form; found 2.0; expected a range \[low, high\] or null"),
        ("checks: {cosine_items: {refuse: [0.1, 0.9]}}", r"wrong form; found \(0.1, 0.9\); expected a number or null"),
        ("watch: {marker: a/b}", "watch.marker is not a file name"),
        ("watch: {marker: ''}", "watch.marker is not a file name"),
        ("watch: {path: runs}\nstore: {path: runs}", "contain one another; found .+/runs and .+/runs"),
        ("watch: {path: runs}\nstore: {path: runs/../runs/store}", "contain one another"),
        ("watch: {path: store/runs}\nstore: {path: store}", "contain one another"),
    ],
)
def test_contradictory_keys_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """Keys that contradict each other, and limits of the wrong form, are refused."""
    with pytest.raises(UsageError, match=message):
        load(_file(tmp_path, text), {})


def test_other_metrics_require_no_standardizing() -> None:
    """The key that the message names resolves the contradiction."""
    config = load(environment={}, options={"index.metric": "l2", "space.standardize": False})
    assert config.index.metric == "l2"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("'256 GiB'", 256 * 1024**3),
        ("1.5KiB", 1536),
        ("2 MB", 2_000_000),
        ("' 3 TiB '", 3 * 1024**4),
        ("'7 B'", 7),
        ("'8'", 8),
    ],
)
def test_sizes_have_binary_and_decimal_units(tmp_path: Path, text: str, size: int) -> None:
    """A size is a number of bytes, or a number with a binary or decimal unit."""
    assert load(_file(tmp_path, f"snapshot: {{max_bytes: {text}}}"), {}).snapshot.max_bytes == size


@pytest.mark.parametrize("text", ["12 K", "1 iB", "many", "-5 GiB", "1e9", "GiB"])
def test_an_invalid_size_is_refused(text: str) -> None:
    """The message shows the form of a size."""
    with pytest.raises(UsageError, match=r"snapshot\.max_bytes: not a size; .*such as '256 GiB'"):
        load(environment={}, options={"snapshot.max_bytes": text})


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths do not depend on the working directory; absolute paths and ``~`` are kept."""
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load(_file(tmp_path, "store: {path: s/t}\nwatch: {path: /in}\nserve: {token_file: ~/token}"), {})
    assert config.store.path == str(tmp_path / "s/t")
    assert config.watch.path == "/in"
    assert config.serve.token_file == "/home/somebody/token"
    assert load(environment={"EMBSYNC_STORE__PATH": "s"}).store.path == "s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "not a mapping; found list"),
        ("store: [", "not valid YAML"),
        ("store:\n", "store: empty section"),
        ("space:\n  anchors:\n", r"space\.anchors: empty section"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("\0", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Nothing in the file is executed, and the message names the file."""
    with pytest.raises(UsageError, match=rf"embsync\.yaml: .*{message}|embsync\.yaml: {message}"):
        load(_file(tmp_path, text), {})


def test_an_empty_file_gives_all_defaults(tmp_path: Path) -> None:
    """An empty file, or one with comments only, is an empty configuration."""
    assert load(_file(tmp_path, "# nothing yet\n"), {}) == Config()


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    """A missing or unreadable file is a usage error that names it."""
    with pytest.raises(UsageError, match=r"none\.yaml: configuration file not found"):
        load(tmp_path / "none.yaml", {})
    with pytest.raises(UsageError, match="configuration cannot be read; found Is a directory"):
        load(tmp_path, {})


def test_a_home_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    """A path below the home of an unknown user is reported like any other wrong value."""
    with pytest.raises(UsageError):
        load(_file(tmp_path, "store: {path: ~nobody-of-this-name/store}"), {})


@pytest.mark.parametrize("variable", ["EMBSYNC_STORE__PATH__X", "EMBSYNC_THREADS__X"])
def test_a_key_below_a_value_is_refused(tmp_path: Path, variable: str) -> None:
    """A variable cannot turn a value into a section."""
    with pytest.raises(UsageError, match="environment sets a key below a value"):
        load(_file(tmp_path, "store: {path: s}\nthreads: 1"), {variable: "1"})


def test_a_variable_that_is_not_yaml_is_refused() -> None:
    """The message names the key of the variable."""
    with pytest.raises(UsageError, match=r"store\.path: not a valid value"):
        load(environment={"EMBSYNC_STORE__PATH": "[a"})


def test_every_check_has_default_limits_in_order() -> None:
    """A value that refuses also warns: the warning range is within the refusing one."""
    for name, (warn, refuse) in DEFAULT_LIMITS.items():
        if isinstance(warn, tuple) and isinstance(refuse, tuple):
            assert refuse[0] < warn[0] < warn[1] < refuse[1], name
        elif isinstance(warn, float) and isinstance(refuse, float):
            assert warn != refuse, name


def _keys(tree: dict[str, Any], path: tuple[str, ...] = ()) -> set[str]:
    return {
        key
        for name, value in tree.items()
        for key in (_keys(value, (*path, name)) if isinstance(value, dict) and value else {".".join((*path, name))})
    }


def test_the_example_names_every_key_with_its_default(tmp_path: Path) -> None:
    """The example has exactly the existing keys, each with a comment; only relative paths depend on its directory."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert _keys(yaml.safe_load(text)) == _keys(msgspec.to_builtins(Config()))
    config = load(_file(tmp_path, text), {})
    assert msgspec.structs.replace(config, store=StoreConfig()) == Config()
    assert config.store.path == str(tmp_path / "embsync-store")
    for line in text.splitlines():
        if re.match(r" *\w+: *\S", line) and not line.startswith("checks:"):
            assert "#" in line, line


def test_limits_of_the_server_can_be_set_in_every_source(tmp_path: Path) -> None:
    """File, environment and options can set them; a size may have a unit, a socket's path is relative to the file."""
    path = _file(tmp_path, "serve: {listen: 'unix:s.sock', workers: 2, limits: {body: 1 MiB, batch: 7, seconds: 3}}")
    config = load(
        path,
        {"EMBSYNC_SERVE__LIMITS__BATCH": "8", "EMBSYNC_SERVE__LIMITS__BODY": "2MiB"},
        {"serve.limits.seconds": 4.0},
    )
    assert config.serve == ServeConfig(
        listen=f"unix:{tmp_path}/s.sock", workers=2, limits=LimitsConfig(body=2 * 1024**2, batch=8, seconds=4.0)
    )
