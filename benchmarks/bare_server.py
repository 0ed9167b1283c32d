"""A server that passes queries to a FAISS index without checks or limits: the peer of ``serving.py --peers``.

    python benchmarks/bare_server.py VERSION_DIRECTORY PARSER

VERSION_DIRECTORY is a published version, PARSER ``h11`` or ``httptools``. The port is printed.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import faiss
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import embsync
from embsync.index.layers import search_parameters


def application(version: Path) -> Starlette:
    """Return the application, which has one endpoint."""
    index = faiss.read_index(str(version / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    labels = np.append(np.load(version / "index_rows.npy"), -1)
    with embsync.open(version.parents[1]) as reader:
        ids = np.append(np.asarray(reader.current.items.ids), -1)
        parameters = search_parameters(index, reader.current.record.index.search)

    async def search(request: Request) -> JSONResponse:
        asked = await request.json()
        scores, found = index.search(np.array(asked["vectors"], np.float32), asked["k"], params=parameters)
        return JSONResponse({"ids": ids[labels[found]].tolist(), "scores": scores.tolist()})

    return Starlette(routes=[Route("/v1/search", search, methods=["POST"])])


def main(version: Path, parser: str) -> None:
    """Serve until a signal."""
    # If the protocol is given, asyncio sets TCP_NODELAY; otherwise each response waits 40 ms for an ACK.
    with socket.socket(proto=socket.IPPROTO_TCP) as bound:
        bound.bind(("127.0.0.1", 0))
        print(bound.getsockname()[1], flush=True)
        config = uvicorn.Config(application(version), log_level="error", access_log=False, http=parser, loop="asyncio")
        uvicorn.Server(config).run(sockets=[bound])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
