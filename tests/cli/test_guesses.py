"""Commands and options of other programs: the hint is embsync's equivalent, and works as printed."""

from __future__ import annotations

import shlex

import click
import pytest

from embsync.cli.main import cli, run

#: What users type, and the command that is suggested.
TYPED = {
    "serve --port 8080": "serve --listen 127.0.0.1:8080",
    "serve --host db.local --port=8080 --store S": "serve --listen db.local:8080 --store S",
    "serve --host=db.local --store S --port=8080": "serve --store S --listen db.local:8080",
    "serve --port 8080 --host ::1": "serve --listen '[::1]:8080'",
    "serve --bind ::1": "serve --listen '[::1]:8980'",
    "serve --bind '[::1]:80'": "serve --listen '[::1]:80'",
    "serve --bind unix:/s": "serve --listen unix:/s",
    "serve --bind 127.0.0.2 -w 2": "serve --listen 127.0.0.2:8980 -w 2",
    "serve -p 80": "serve --listen 127.0.0.1:80",
    "serve --path 'my store'": "serve --store 'my store'",
    "status --dir S": "status --store S",
    "status --cfg c.yaml": "status --config c.yaml",
    "status --format json": "status --json",
    "sync --path models/day=1": "sync models/day=1",
    "sync models/day=1 --dryrun": "sync models/day=1 --dry-run",
    "demo --out here": "demo here",
    "demo --store here": "demo here",
    "report --out=r.html": "report --output r.html",
    "search --top-k 5 --user 7": "search -k 5 --user 7",
    "history --limit 3": "history --last 3",
    "show --version 3": "show 3",
    "verify -v 3 --json": "verify 3 --json",
    "write -o day=1 --items i.npy --force": "write day=1 --items i.npy --overwrite",
    "write day=1 --items i.npy --force": "write day=1 --items i.npy --overwrite",
    "push --to s3://bucket/x": "push s3://bucket/x",
    "lookup users 1 --verbose": "lookup users 1 --debug",
    "serve --dir S --port 8080 --cfg c.yaml": "serve --store S --listen 127.0.0.1:8080 --config c.yaml",
    "pull --dir S --from s3://bucket/x": "pull --store S s3://bucket/x",
    "deliver --stor x": "deliver --store x",
    "lookup items -5": "lookup -- items -5",
    "lookup users 1 -2 3 --store=S -m nan --json": "lookup --store=S -m nan --json -- users 1 -2 3",
    "lookup items -mnan -5": "lookup -mnan -- items -5",
    "lookup items -5 -- 6": "lookup -- items -5 6",
    "rollback --version 3 --store S": "rollback 3 --store S",
    "--store S status": "status --store S",
    "--dir S serve --port 80": "serve --store S --listen 127.0.0.1:80",
}


@pytest.mark.parametrize("typed", TYPED)
def test_the_equivalent_command_is_printed(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The suggestion can be pasted and keeps the other arguments."""
    assert run(shlex.split(typed)) == 2
    line = capsys.readouterr().err
    assert line.startswith("embsync: No such option '-")
    hint = shlex.split(line.partition("; hint: ")[2])
    assert hint[-len(shlex.split(TYPED[typed])) :] == shlex.split(TYPED[typed])


@pytest.mark.parametrize("printed", TYPED.values())
def test_every_printed_command_has_options_that_exist(printed: str) -> None:
    """Each printed command is parsed with its options and their values."""
    name, *rest = shlex.split(printed)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.make_parser(click.Context(command)).parse_args(rest)[1] == []


def test_quiet_is_answered_by_a_redirection_or_a_log_level(capsys: pytest.CaptureFixture[str]) -> None:
    """The hint redirects a command's results to /dev/null, and sets the log level of a service."""
    assert run(["status", "--quiet"]) == 2
    assert capsys.readouterr().err.endswith(" status > /dev/null\n")
    assert run(["run", "-q", "--store", "S"]) == 2
    hint = capsys.readouterr().err.partition("; hint: ")[2]
    assert hint.startswith("EMBSYNC_LOG__LEVEL=warning ")
    assert hint.endswith(" run --store S\n")
    assert run(["serve", "-q", "--port", "80"]) == 2
    assert capsys.readouterr().err.endswith(" serve --listen 127.0.0.1:80\n")


def test_an_option_without_equivalent_gets_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Where one option has no equivalent, the hint is the help of the command."""
    assert run(["serve", "--port", "80", "--ssl-keyfile", "k"]) == 2
    assert "; hint: see " in capsys.readouterr().err


def test_only_an_option_whose_name_is_close_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    """For any other option, the hint is the help of the command."""
    assert run(["deliver", "--sink", "x"]) == 2
    assert "; hint: see " in capsys.readouterr().err


#: Commands of other programs and misspelt commands, and the command that is suggested.
COMMANDS_TYPED = {
    "publish models/day=1 --json": "sync models/day=1 --json",
    "ls --store S": "history --store S",
    "Statu": "status",
    "publish --foo": "sync --help",
    "verfy --help": "verify --help",
    "help": "--help",
    "help sync": "sync --help",
}


@pytest.mark.parametrize("typed", COMMANDS_TYPED)
def test_a_command_of_another_program(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The suggestion goes by meaning, then by spelling; if the other words do not fit, it is the command's help."""
    assert run(shlex.split(typed)) == 2
    said = capsys.readouterr()
    assert said.err.endswith(f"; hint: embsync {COMMANDS_TYPED[typed]}\n")
    assert said.out == ""


def test_a_rollback_without_a_version_is_printed_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    """The hint says that the command changes the store, since ``--version`` may have meant the program's version."""
    assert run(["rollback", "--version", "--store", "S"]) == 2
    assert capsys.readouterr().err.endswith("; hint: to return to the previous version: embsync rollback --store S\n")
