"""Settings that a server refuses at startup, such as unusable addresses and tokens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from embsync.cli.main import run
from embsync.config import Config
from embsync.config_loader import load
from embsync.errors import UsageError
from embsync.server.settings import Settings, address, is_open_to_all, names_this_machine, require_servable


def settings(**serve: object) -> Settings:
    """Return settings with some keys of the section ``serve``."""
    return Settings.of(load(environment={}, options={f"serve.{key}": value for key, value in serve.items()}))


def test_settings_combine_the_section_and_the_store() -> None:
    """Each default is that of the configuration."""
    made = Settings.of(Config())
    assert made.store == Config().store.path
    assert made.limits is Config().serve.limits
    require_servable(made)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:8980", "127.0.0.1", 8980),
        ("[::1]:0", "::1", 0),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("a-host.example:65535", "a-host.example", 65535),
    ],
)
def test_an_address_is_a_host_and_a_port(listen: str, host: str, port: int) -> None:
    """An IPv6 address is in brackets."""
    assert address(listen) == (host, port)


@pytest.mark.parametrize(
    "listen",
    [
        "",
        "8980",
        ":8980",
        "[::1]",
        "::1:80",
        "http://127.0.0.1:80",
        "localhost:http",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1: 80",
        "127.0.0.1:٣",
        "a b:80",
    ],
)
def test_an_invalid_address_is_refused(listen: str) -> None:
    """The message shows the address as it was given, in quotes."""
    with pytest.raises(UsageError, match="not an address to listen on; found '"):
        require_servable(settings(listen=listen))


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LocalHost:8980", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8", True),
        ("[::1]:80", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("evil.example:80:80", False),
        ("evil.example:", False),
        ("evil.example/", False),
        ("localhost/healthz?", False),
        ("evil.example@localhost", False),
        ("[::1", False),
        ("[2001:db8::1]", False),
        ("0.0.0.0", False),
        ("ü", False),
        ("", False),
    ],
)
def test_only_names_of_this_machine_count_as_local(host: str, own: bool) -> None:
    """A name that cannot be parsed is not local."""
    assert names_this_machine(host) is own


@pytest.mark.parametrize("host", ["https://a.example", "a.example:80", "A.example", "", "*", "a b", "a.example/"])
def test_a_configured_host_is_a_bare_name(host: str) -> None:
    """A host that could never equal the name in a request is refused, since it would have no effect."""
    with pytest.raises(UsageError, match="not a name that clients call this server by"):
        require_servable(settings(hosts=["a.example", host]))


def test_a_server_answers_to_the_names_it_is_given() -> None:
    """Names are compared without case and port; those of this machine are always accepted."""
    made = settings(hosts=["search.example.org", "10.0.0.7"])
    require_servable(made)
    for host in ("search.example.org", "SEARCH.example.org:8980", "10.0.0.7:1", "localhost"):
        assert made.answers_to(host)
    for host in ("example.org", "a.search.example.org", "search.example.org.", "[2001:db8::2]"):
        assert not made.answers_to(host)


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "[2001:db8::1]:80", "host.example:80", "[::ffff:192.0.2.1]:80"]
)
def test_non_loopback_addresses_require_a_token(listen: str, tmp_path: Path) -> None:
    """It applies to IPv4 and IPv6; with a token such an address is accepted."""
    with pytest.raises(UsageError, match="without a token"):
        require_servable(settings(listen=listen))
    (tmp_path / "token").write_text("sesame\n")
    require_servable(settings(listen=listen, token_file=str(tmp_path / "token")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no token; found an empty file"),
        (b" \n", "no token; found an empty file"),
        (b"two words", "not a token that a header can carry; found 9 bytes, not shown"),
        (b"two\nlines", "not a token that a header can carry"),
        ("schlüssel".encode(), "not a token that a header can carry"),
        (b"x" * 5000, "not a token that a header can carry"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """The message never shows the content."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        require_servable(settings(token_file=str(tmp_path / "token")))


def test_a_token_file_must_be_a_regular_file(tmp_path: Path) -> None:
    """A missing file, a directory, a FIFO without a writer and a dangling link are refused."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name, found in (("none", "No such file"), (".", "a directory"), ("pipe", "a FIFO"), ("link", "No such file")):
        with pytest.raises(UsageError, match=f"no token; found {found}"):
            require_servable(settings(token_file=str(tmp_path / name)))


def test_a_world_readable_token_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mounted secret may have to be readable by others, so there is a warning and no error."""
    token = tmp_path / "token"
    token.write_text("sesame\n")
    token.chmod(0o640)
    assert not is_open_to_all(token)
    token.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(["serve", "--listen", where, "--token-file", str(token), "--store", str(tmp_path / "S")]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "every user of this machine can read the token" in warning
    assert "cannot listen; found Address already in use" in error
    assert error.endswith(f"to see which process listens there: ss -ltnp 'sport = :{where.partition(':')[2]}'")


def test_a_socket_needs_a_usable_path(tmp_path: Path) -> None:
    """The path must not be too long, and its directory must exist and have no other file of that name."""
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / ("x" * 200), "too long for a socket's path"),
        (tmp_path / "file", "a file"),
        (tmp_path, "a directory"),
        (tmp_path / "no/s.sock", "no such directory"),
    ):
        with pytest.raises(UsageError, match=message):
            require_servable(settings(listen=f"unix:{path}"))
    require_servable(settings(listen=f"unix:{tmp_path}/s.sock"))


@pytest.mark.parametrize(
    "options",
    [
        ["--listen", "unix:"],
        ["--listen", "nowhere"],
        ["--token-file", "/nonexistent"],
        ["--max-k", "0"],
        ["--max-body", "much"],
        ["--workers", "0"],
        ["--max-seconds", "nan"],
    ],
)
def test_invalid_settings_are_one_line_and_exit_code_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused on the command line before the server listens."""
    assert run(["serve", *options]) == 2
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 1)
