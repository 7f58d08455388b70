"""A small server on loopback that speaks the Hub's protocol: enough of it for models and data sets by name.

    with hub({"models/me/tiny": folder, "datasets/me/pairs": other}, gated={"models/me/secret"}) as address:
        …  # HF_ENDPOINT=address

A folder under its name is a repository with one commit. Files come whole or, for `Range`, from a place on.
`broken` closes the connection once in the middle of a file's name, as a bad network does.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def etag(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def handler(repositories: dict[str, Path], gated: set[str], broken: set[str], asked: list[str]):
    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status: int, content=b"", **headers) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(data), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

        def found(self, kind: str, name: str) -> Path | None:
            if f"{kind}/{name}" in gated:
                return self.refuse(403, "GatedRepo")
            folder = repositories.get(f"{kind}/{name}")
            return folder or self.refuse(404, "RepoNotFound")

        def do_HEAD(self):
            self.do_GET()

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = unquote(urlsplit(self.path).path)
            asked.append(f"POST {path}")
            if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/[^/]+", path):
                if folder := self.found(*match.groups()):
                    wanted = json.loads(body or b"{}").get("paths", [])
                    self.answer(200, [e for e in self.entries(folder) if e["path"] in wanted])
            else:
                self.answer(404)

        def entries(self, folder: Path) -> list[dict]:
            files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
            return [
                {
                    "type": "file",
                    "oid": etag(f)[:40],
                    "size": f.stat().st_size,
                    "path": f.relative_to(folder).as_posix(),
                }
                for f in files
            ]

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
                if folder := self.found(*match.groups()):
                    siblings = [{"rfilename": e["path"], "size": e["size"]} for e in self.entries(folder)]
                    about = {"id": match.group(2), "sha": COMMIT, "siblings": siblings, "private": False}
                    self.answer(200, about | {"gated": False, "disabled": False, "tags": []})
            elif match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", path):
                if folder := self.found(*match.groups()[:2]):
                    inside = match.group(3) or ""
                    self.answer(200, [e for e in self.entries(folder) if e["path"].startswith(inside)])
            elif match := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                if folder := self.found(match.group(1) or "models", match.group(2)):
                    self.file(folder / match.group(3))
            else:
                self.answer(404)

        def file(self, path: Path) -> None:
            if not path.is_file():
                return self.refuse(404, "EntryNotFound")
            data, start = path.read_bytes(), 0
            if match := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start = int(match.group(1))
            headers = {
                "ETag": f'"{etag(path)}"',
                "Accept_Ranges": "bytes",
                "Content_Type": "application/octet-stream",
            }
            if start:
                headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if self.command == "GET" and path.name in broken:
                broken.discard(path.name)
                self.send_response(200)
                for name, value in {"Content-Length": len(data), "X-Repo-Commit": COMMIT, **headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.connection.close()
                return
            self.answer(206 if start else 200, data[start:], **headers)

    return Hub


@contextmanager
def hub(repositories: dict[str, Path], gated=(), broken=(), asked: list[str] | None = None) -> Iterator[str]:
    asked = [] if asked is None else asked
    made = handler(repositories, set(gated), set(broken), asked)
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
