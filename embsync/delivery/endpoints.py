"""The objects at a URL, by its scheme."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from embsync.config import ObjectStoreConfig
from embsync.delivery.local_objects import LocalObjects
from embsync.delivery.objects import Objects
from embsync.errors import UsageError
from embsync.invocation import quoted

#: Schemes of object stores.
_CLOUD = ("s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss")


def open_objects(config: ObjectStoreConfig) -> Objects:
    """Return the objects at a URL, without connecting.

    Raises
    ------
    UsageError
        The scheme of the URL is not known, or the library is not installed.
    """
    config = msgspec.structs.replace(config, url=config.url.rstrip("/"))
    parts = urlsplit(config.url)
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/") or parts.path == "/" or {"#", "?"} & set(config.url):
            expected = "file:///path/of/a/directory, without # and ?"
            raise UsageError("not a directory's URL", found=config.url, expected=expected)
        return LocalObjects(config.url, Path(parts.path))
    if parts.scheme not in _CLOUD or not parts.netloc:
        raise UsageError(
            "not the URL of an object store",
            found=_without_credentials(config.url),
            expected="s3://bucket/prefix, gs://bucket/prefix, az://account/container/prefix or file:///directory",
            hint=_url_of_directory(config.url),
        )
    if parts.password is not None:
        raise UsageError(
            "credentials in a URL",
            found=_without_credentials(config.url),
            expected="a URL without them",
            hint="put them into environment variables or a file: docs/delivery.md",
        )
    try:
        from embsync.delivery.cloud_objects import CloudObjects  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{parts.scheme}:// needs additional packages",
            found=f"no {error.name}",
            hint="pip install 'embsync[mirror]'",
        ) from None
    return CloudObjects(config)


def _url_of_directory(given: str) -> str | None:
    if {":", "#", "?"} & set(given) or not (given.startswith(("/", ".")) or Path(given).is_dir()):
        return None
    url = f"file://{os.path.abspath(given)}"  # noqa: PTH100  (links stay)
    return f"the directory's URL is {quoted(url)}"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
