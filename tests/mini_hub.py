"""A mini Hub over HTTP, in memory. Its clients run in a subprocess: they read `HF_ENDPOINT` when they are imported."""

import base64
import hashlib
import json
import os
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

SHA = "0" * 40


def sha_of(revision):
    return SHA if revision in ("main", SHA) else hashlib.sha1(revision.encode()).hexdigest()


class MiniHub(ThreadingHTTPServer):
    """
    `repos` is kind/name ("datasets/me/toy") -> {"private", "files": path -> bytes}, with branches other than main in
    "branches"; `log` has all requests. `faults` are [pattern, answer, how often] for requests such as "POST /path
    me/name" that the pattern finds. An answer is a status, "hang", "cut" (the connection ends without an answer), or a
    function of the hub, after which it answers as usual.
    """

    daemon_threads = True

    def __init__(self):
        self.repos, self.lfs, self.log, self.faults, self.tokens = {}, {}, [], [], set()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: os.PathLike, **variables: str) -> dict[str, str]:
        """The environment of a subprocess that uses this Hub and keeps everything in `home`."""
        hub = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "HF_HOME": str(home)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return kept | hub | {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"} | variables


@contextmanager
def mini_hub():
    hub = MiniHub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        if (path := self._begin()) is None:
            return
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        if not (found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?", path)):
            return self._answer(404)
        kind, name, rest = found.groups()
        repo = self.server.repos.get(f"{kind}/{name}")
        if repo is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if rest == "/auth-check/write":
            return self._answer(200)
        _, what, revision, *folder = (rest or "//main").split("/", 3)
        files = self._files(repo, revision)
        if files is None:
            return self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if what == "tree":
            recursive = "true" in self.query.get("recursive", "").lower()
            return self._answer(200, self._listing(files, "".join(folder), recursive))
        info = {
            "id": name,
            "sha": sha_of(revision),
            "private": repo["private"],
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        self._answer(200, info | {"siblings": [{"rfilename": file} for file in files]})

    do_HEAD = do_GET

    def do_POST(self):
        if (path := self._begin()) is None:
            return
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            body = json.loads(self.body)
            name = f"{body.get('organization') or 'me'}/{body['name']}"
            private = bool(body.get("private") or body.get("visibility") == "private")
            kind, answer = f"{body.get('type', 'model')}s", {"url": f"{self.server.url}/{name}", "name": name}
            if f"{kind}/{name}" in self.server.repos:
                return self._answer(409, answer)
            self.server.repos[f"{kind}/{name}"] = {"private": private, "files": {}}
            return self._answer(200, answer)
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(self.body)["objects"]
            upload = {o["oid"]: {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}} for o in objects}
            return self._answer(
                200, {"transfer": "basic", "objects": [o | {"actions": upload[o["oid"]]} for o in objects]}
            )
        kind, name, action, revision = re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+)/([^/]+)/(.+)", path
        ).groups()
        repo = self.server.repos.get(f"{kind}/{name}")
        if repo is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if action == "branch":
            new = revision not in repo.setdefault("branches", {}) and revision != "main"
            if new:
                repo["branches"][revision] = dict(repo["files"])
            return self._answer(200 if new else 409, {"error": "Reference already exists"})
        files = self._files(repo, revision)
        if files is None:
            return self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if action == "preupload":
            asked = [file["path"] for file in json.loads(self.body)["files"]]
            mode = {True: "lfs", False: "regular"}
            modes = [{"path": p, "uploadMode": mode[p.endswith((".parquet", ".safetensors"))]} for p in asked]
            return self._answer(200, {"files": [m | {"shouldIgnore": False, "oid": None} for m in modes]})
        if action == "paths-info":
            asked = parse_qs(self.body.decode())["paths"]
            return self._answer(200, [entry for entry in self._listing(files, "", True) if entry["path"] in asked])
        for line in map(json.loads, self.body.splitlines()):  # commit
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self._answer(200, {"success": True, "commitOid": SHA, "commitUrl": f"{self.server.url}/{name}/commit/{SHA}"})

    def do_PUT(self):
        if (path := self._begin()) is None:
            return
        oid = path.removeprefix("/lfs/")
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.lfs[oid] = self.body
        self._answer(200)

    def _begin(self) -> str | None:
        """The path of a request; `None` where a fault has answered it."""
        url = urlparse(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(url.path)
        self.server.log.append(f"{self.command} {path}")
        self.server.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
        about = self.server.log[-1]
        if path == "/api/repos/create":
            body = json.loads(self.body)
            about += f" {body.get('organization') or 'me'}/{body['name']}"
        fault = next((f for f in self.server.faults if f[2] > 0 and re.search(f[0], about)), None)
        if fault is None:
            return path
        fault[2] -= 1
        if callable(fault[1]):
            fault[1](self.server)
            return path
        if isinstance(fault[1], int):
            self._answer(fault[1], {"error": f"as the test wants it, {self.server.url}/x?signature=abc"})
            return None
        if fault[1] == "hang":
            time.sleep(2)
        self.close_connection = True
        return None

    def _files(self, repo: dict, revision: str) -> dict[str, bytes] | None:
        """The files of a branch or commit."""
        branches = {"main": repo["files"]} | repo.get("branches", {})
        return next((files for name, files in branches.items() if revision in (name, sha_of(name))), None)

    def _listing(self, files: dict[str, bytes], folder: str, recursive: bool) -> list[dict]:
        entries, prefix = {}, f"{folder}/" if folder else ""
        for path, content in files.items():
            inside = path.removeprefix(prefix)
            if path.startswith(prefix) and "/" in inside:
                parent = prefix + inside.split("/")[0]
                entries[parent] = {"type": "directory", "path": parent, "oid": SHA, "size": 0}
            if path.startswith(prefix) and (recursive or "/" not in inside):
                digest = hashlib.sha1(content).hexdigest()
                entries[path] = {"type": "file", "path": path, "oid": digest, "size": len(content)}
        return list(entries.values())

    def _file(self, kind: str | None, name: str, revision: str, path: str):
        repo = self.server.repos.get(f"{kind or 'models'}/{name}")
        files = self._files(repo, revision) if repo else {}
        if files is None or path not in files:
            code = "RepoNotFound" if repo is None else "RevisionNotFound" if files is None else "EntryNotFound"
            return self._answer(404, {"error": "not found"}, {"X-Error-Code": code})
        content, commit = files[path], revision if len(revision) == 40 else sha_of(revision)
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._answer(206, content[first : last + 1], headers)
        self._answer(200, content, headers)

    def _answer(self, status: int, content: object = b"", headers: dict[str, str] | None = None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
