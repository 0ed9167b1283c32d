"""Objects of S3, Google Cloud Storage and Azure, through the library obstore."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from embsync.config import ObjectStoreConfig
from embsync.delivery.objects import ObjectEntry
from embsync.delivery.secrets import remember_secret, without_secrets
from embsync.errors import SinkError, SinkUnavailable, UsageError

#: Bytes of one part of an upload, how many parts are in flight, and bytes of a piece of a download.
_PART = 16 << 20
_PARTS = 4
_PIECE = 8 << 20
#: The lock of endpoints without conditional writes, and the prefix of objects that probe an endpoint.
_LOCK, _PROBE = "lock.json", "probe/"
#: Seconds between writing a lock and reading it back: by then, the writes of two publishers at once have arrived.
_SETTLED = 0.3
_SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|_KEY$|CREDENTIAL|SIGNATURE", re.IGNORECASE)
#: Error messages for a full service, and for a wrong clock.
_FULL = re.compile(r"InsufficientStorage|QuotaExceeded|StorageFull|\b507\b|no space left", re.IGNORECASE)
_SKEWED = re.compile(r"RequestTimeTooSkewed|RequestExpired|Request has expired|between the request time", re.IGNORECASE)
#: Error codes of refusals that some services return with the status of another error.
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_METADATA = re.compile(r"169\.254\.|metadata\.google", re.IGNORECASE)


class CloudObjects:
    """The objects below a prefix of a bucket."""

    def __init__(self, config: ObjectStoreConfig) -> None:
        self.where = config.url
        given = {"--endpoint": config.endpoint, "--region": config.region}
        self.push_options = tuple(word for name, value in given.items() if value for word in (name, value))
        self._config = config
        self._opened: Any = None
        self._conditional: bool | None = None

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = _opened(self._config)
        return self._opened

    def absence(self) -> None:
        """Return None: every call reports a missing bucket as an error."""

    def read(self, key: str) -> bytes | None:
        """Return a small object, or None if it does not exist."""
        with self._errors(key):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError as error:
                _require_bucket(error)
                return None

    @contextlib.contextmanager
    def stream(self, key: str, start: int = 0) -> Iterator[Iterator[memoryview] | None]:
        """Yield an object's bytes from ``start`` on, in pieces; None instead if it does not exist."""
        with self._errors(key):
            try:
                found, skipped = self._from(key, start)
            except FileNotFoundError as error:
                _require_bucket(error)
                yield None
                return
            yield _without_first(start - skipped, found.stream(min_chunk_size=_PIECE))

    def _from(self, key: str, start: int) -> tuple[Any, int]:
        """Request an object from ``start`` on, or all of it if ranges are unsupported; also return the actual start."""
        if start:
            try:
                options: Any = {"range": {"offset": start}}
                return obstore.get(self._store, key, options=options), start
            except BaseError as error:
                if "NotPartial" not in str(error) and "non-partial" not in str(error):
                    raise
        return obstore.get(self._store, key), 0

    def write(self, key: str, data: bytes) -> None:
        """Write a small object."""
        with self._errors(key):
            obstore.put(self._store, key, data, use_multipart=False)

    def upload(self, key: str, path: Path) -> None:
        """Upload a file, in parts if it is large."""
        with self._errors(key):
            obstore.put(self._store, key, path, chunk_size=_PART, max_concurrency=_PARTS)

    def copy(self, source: str, key: str) -> bool:
        """Have the service copy an object; return False if it cannot."""
        try:
            obstore.copy(self._store, source, key)
        except (BaseError, NotImplementedError, OSError):
            return False
        return True

    def swap(self, key: str, data: bytes, expected: bytes | None) -> bool:
        """Replace an object that equals ``expected``: by a conditional write, or if there is none, under the lock."""
        if self.is_conditional():
            return self._swap_conditionally(key, data, expected)
        with self._locked():
            if self.read(key) != expected:
                return False
            self.write(key, data)
            return self.read(key) == data

    def _swap_conditionally(self, key: str, data: bytes, expected: bytes | None) -> bool:
        with self._errors(key):
            try:
                found = obstore.get(self._store, key)
                before: bytes | None = bytes(found.bytes())
                mode: Any = {name: value for name in ("e_tag", "version") if (value := found.meta[name]) is not None}
            except FileNotFoundError as error:
                _require_bucket(error)
                before, mode = None, "create"
            return before == expected and self._put_if(key, data, mode)

    def _put_if(self, key: str, data: bytes, mode: Any) -> bool:
        """Write an object conditionally; return whether the condition was met."""
        try:
            obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return self.read(key) == data  # a response may be lost, and its request sent again
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectEntry]:
        """Yield the objects below a directory."""
        with self._errors(prefix):
            for chunk in obstore.list(self._store, prefix or None, chunk_size=500):
                for found in chunk:
                    yield ObjectEntry(found["path"], found["size"], found["last_modified"])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, the first one before the others."""
        with self._errors(""):
            for part in _first_and_rest(list(keys)):
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._store, part)

    def now(self) -> dt.datetime:
        """Return the time of the service's clock: the date of an object written now."""
        key = f"{_PROBE}{secrets.token_hex(8)}"
        self.write(key, b"now")
        try:
            with self._errors(key):
                written: dt.datetime = obstore.head(self._store, key)["last_modified"]
                return written
        finally:
            self.delete([key])

    def is_conditional(self) -> bool:
        """Return whether the endpoint enforces conditional writes; probed once, with an object created for it.

        Some endpoints accept a condition and ignore it.
        """
        if self._conditional is None:
            key = f"{_PROBE}{secrets.token_hex(8)}"
            try:
                self._conditional = self._refuses(key)
            finally:
                self.delete([key])
        return self._conditional

    def _refuses(self, key: str) -> bool:
        with self._errors(key):
            try:
                first: Any = obstore.put(self._store, key, b"1", mode="create", use_multipart=False)
                first = {name: value for name, value in first.items() if value is not None}
                obstore.put(self._store, key, b"2", mode=first, use_multipart=False)
            except NotImplementedError:
                return False
            for mode in ("create", first):
                try:
                    obstore.put(self._store, key, b"3", mode=mode, use_multipart=False)
                except (AlreadyExistsError, PreconditionError):
                    continue
                return False
        return True

    def notes(self) -> tuple[str, ...]:
        """Return a note if the endpoint has no conditional writes."""
        if self.is_conditional():
            return ()
        return (f"{self.where}: the endpoint has no conditional writes; one publisher at a time by {_LOCK}",)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock object, which contains a token of this process.

        The lock of a dead publisher is taken over once it has been seen unchanged for ``lock_seconds`` by the monotonic
        clock of this machine: no two clocks are compared.
        """
        about = {"token": secrets.token_hex(16), "host": os.uname().nodename, "pid": os.getpid()}
        lock = json.dumps(about).encode()
        self._acquire(lock)
        try:
            yield
        finally:
            if self.read(_LOCK) == lock:
                self.delete([_LOCK])

    def _acquire(self, lock: bytes) -> None:
        began = since = time.monotonic()
        seen: bytes | None = None
        while True:
            found = self.read(_LOCK)
            now = time.monotonic()
            if found != seen:
                seen, since = found, now
            if found is None or now - since >= self._config.lock_seconds:
                self.write(_LOCK, lock)
                time.sleep(_SETTLED)
                if self.read(_LOCK) == lock:
                    return
            if now - began > 2 * self._config.lock_seconds:
                raise SinkUnavailable(
                    "another publisher holds the lock",
                    where=f"{self.where}/{_LOCK}",
                    found=(found or b"nothing").decode(errors="replace")[:200],
                    hint="one publisher at a time; the lock of one that died is taken over",
                )
            time.sleep(_SETTLED)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, NotImplementedError, OSError) as error:
            raise _translated(error, f"{self.where}/{key}".rstrip("/")) from None


def _without_first(count: int, pieces: Iterable[Any]) -> Iterator[memoryview]:
    """Yield pieces without their first ``count`` bytes."""
    for piece in pieces:
        yield memoryview(piece)[count:]
        count = max(count - len(piece), 0)


def _first_and_rest(keys: list[str]) -> Iterator[list[str]]:
    if keys:
        yield keys[:1]
    for start in range(1, len(keys), 500):
        yield keys[start : start + 500]


def _opened(config: ObjectStoreConfig) -> Any:
    options = _credentials(config)
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name):
            remember_secret(value)
    endpoint = config.endpoint or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    if urlsplit(config.url).scheme in ("s3", "s3a"):
        options |= {"endpoint": config.endpoint} if config.endpoint else {}
        region = config.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options |= {"region": region or "us-east-1"}
    client: Any = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "6h"}
    if endpoint.startswith("http://"):
        client["allow_http"] = True
    retry: Any = {"max_retries": 3, "retry_timeout": dt.timedelta(seconds=30)}
    make: Callable[..., Any] = from_url
    try:
        return make(config.url, config=options or None, client_options=client, retry_config=retry)
    except UnknownConfigurationKeyError as error:
        found = without_secrets(str(error).splitlines()[0])
        raise UsageError("unknown key of credentials", where=config.credentials_file, found=found) from None
    except (BaseError, ValueError) as error:
        found = without_secrets(str(error).splitlines()[0])[:200]
        raise UsageError("not the URL of an object store", where=config.url, found=found) from None


def _credentials(config: ObjectStoreConfig) -> dict[str, str]:
    """Return the lines ``NAME=value`` of the credentials file; their values are secrets."""
    if config.credentials_file is None:
        return {}
    file = Path(config.credentials_file)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError("the credentials file cannot be read", where=file, found=found) from None
    options = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().partition("=")
        if not line.strip() or line.startswith("#"):
            continue
        if not equals or not name.strip().isidentifier():
            raise UsageError("not a line of credentials", where=f"{file}:{number}", expected="NAME=value")
        options[name.strip().lower()] = value.strip().strip("\"'")
        remember_secret(options[name.strip().lower()])
    return options


def _require_bucket(error: FileNotFoundError) -> None:
    """Re-raise an error about the bucket: only a missing object counts as absent."""
    if re.search(r"NoSuchBucket|ContainerNotFound|bucket does not exist", str(error), re.IGNORECASE):
        raise error


def _translated(error: Exception, where: str) -> SinkError:
    """Return what a library's error means; its text may contain secrets and has many lines."""
    text = without_secrets(str(error))
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d{3}[ \w-]*)", text)
    inner = re.search(r"(HTTP error: [^\n]*|Server returned[^\n:]*)", text)
    found = code[1] if code else status[1] if status else inner[1] if inner else text.splitlines()[0][:200]
    if _METADATA.search(text):
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your service uses; or credentials_file"
        return SinkError("no credentials", where=where, found="none in the environment", hint=hint)
    if _SKEWED.search(text):
        return SinkUnavailable(
            "the clock of this machine is wrong", where=where, found=found, hint="timedatectl status"
        )
    if _FULL.search(text):
        hint = "free space there, or lower keep_versions of the sink"
        return SinkUnavailable("no space left", where=where, found=found, hint=hint)
    if found in _DENIED or isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        hint = "are the key and its secret correct, and do they permit reading, writing, listing and deleting there?"
        return SinkError("not permitted", where=where, found=found, hint=hint)
    if isinstance(error, FileNotFoundError):
        hint = "create the bucket, or correct the URL; embsync does not create buckets"
        return SinkError("no such bucket", where=where, found=found, hint=hint)
    return SinkUnavailable(
        "the object store cannot be reached", where=where, found=found, hint="check the endpoint and the network"
    )
