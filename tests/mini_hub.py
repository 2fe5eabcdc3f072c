"""A mini Hub over HTTP, in memory. Its clients run in a subprocess: they read `HF_ENDPOINT` when they are imported."""

import base64
import hashlib
import json
import os
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

SHA = "0" * 40


class MiniHub(ThreadingHTTPServer):
    """`repos` is kind/name ("datasets/me/town") -> {"private", "files": path -> bytes}; `log` has all requests."""

    daemon_threads = True

    def __init__(self):
        self.repos, self.lfs, self.log = {}, {}, []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: os.PathLike, **variables: str) -> dict[str, str]:
        """For a subprocess that takes this for the Hub and keeps everything in `home`."""
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
        path = self._begin()
        if found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(*found.groups())
        if not (found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?", path)):
            return self._answer(404)
        kind, name, rest = found.groups()
        repo = self.server.repos.get(f"{kind}/{name}")
        if repo is None:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if (rest or "").startswith("/tree/"):
            folder = "".join(rest.split("/", 3)[3:])
            return self._answer(200, self._listing(repo, folder, "true" in self.query.get("recursive", "").lower()))
        info = {"id": name, "sha": SHA, "private": repo["private"], "tags": [], "downloads": 0, "likes": 0}
        self._answer(200, info | {"siblings": [{"rfilename": file} for file in repo["files"]]})

    do_HEAD = do_GET

    def do_POST(self):
        path = self._begin()
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            body = json.loads(self.body)
            name = f"{body.get('organization') or 'me'}/{body['name']}"
            private = bool(body.get("private") or body.get("visibility") == "private")
            self.server.repos[f"{body.get('type', 'model')}s/{name}"] = {"private": private, "files": {}}
            return self._answer(200, {"url": f"{self.server.url}/{name}", "name": name})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(self.body)["objects"]
            upload = {o["oid"]: {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}} for o in objects}
            return self._answer(
                200, {"transfer": "basic", "objects": [o | {"actions": upload[o["oid"]]} for o in objects]}
            )
        kind, name, action = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/([^/]+)/.+", path).groups()
        files = self.server.repos[f"{kind}/{name}"]["files"]
        if action == "preupload":
            asked = [file["path"] for file in json.loads(self.body)["files"]]
            mode = {True: "lfs", False: "regular"}
            modes = [{"path": p, "uploadMode": mode[p.endswith((".parquet", ".safetensors"))]} for p in asked]
            return self._answer(200, {"files": [m | {"shouldIgnore": False, "oid": None} for m in modes]})
        if action == "paths-info":
            asked = parse_qs(self.body.decode())["paths"]
            return self._answer(
                200, [entry for entry in self._listing({"files": files}, "", True) if entry["path"] in asked]
            )
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
        path = self._begin()
        oid = path.removeprefix("/lfs/")
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.lfs[oid] = self.body
        self._answer(200)

    def _begin(self) -> str:
        url = urlparse(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.log.append(f"{self.command} {unquote(url.path)}")
        return unquote(url.path)

    def _listing(self, repo: dict, folder: str, recursive: bool) -> list[dict]:
        entries, prefix = {}, f"{folder}/" if folder else ""
        for path, content in repo["files"].items():
            inside = path.removeprefix(prefix)
            if path.startswith(prefix) and "/" in inside:
                parent = prefix + inside.split("/")[0]
                entries[parent] = {"type": "directory", "path": parent, "oid": SHA, "size": 0}
            if path.startswith(prefix) and (recursive or "/" not in inside):
                digest = hashlib.sha1(content).hexdigest()
                entries[path] = {"type": "file", "path": path, "oid": digest, "size": len(content)}
        return list(entries.values())

    def _file(self, kind: str | None, name: str, path: str):
        repo = self.server.repos.get(f"{kind or 'models'}/{name}")
        if repo is None or path not in repo["files"]:
            code = "RepoNotFound" if repo is None else "EntryNotFound"
            return self._answer(404, {"error": "not found"}, {"X-Error-Code": code})
        content = repo["files"][path]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
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
