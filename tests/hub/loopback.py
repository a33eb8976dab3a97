"""A Hub on the loopback interface: the parts of its protocol that pushing and loading a model need.

Requests and answers as huggingface_hub 2.4 speaks them without xet (HF_HUB_DISABLE_XET=1): repositories with a history
of commits, large files through the LFS batch interface, files by revision.
"""

import base64
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Commit:
    """One state of a repository: its files, and which of them are large."""

    sha: str
    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, str] = field(default_factory=dict)  # name -> sha256


@dataclass
class Hub:
    """What is stored, and what was asked."""

    repositories: dict[str, list[Commit]] = field(default_factory=dict)  # newest last
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, repository: str, revision: str | None) -> Commit | None:
        history = self.repositories.get(repository, [])
        if revision in (None, "main"):
            return history[-1] if history else None
        return next((commit for commit in history if commit.sha == revision), None)

    def apply(self, repository: str, lines: bytes) -> Commit:
        """Make the commit that newline-delimited JSON describes."""
        last = self.repositories[repository][-1]
        new = Commit(hashlib.sha1(lines + last.sha.encode()).hexdigest(), dict(last.files), dict(last.large))
        for entry in map(json.loads, lines.splitlines()):
            value = entry["value"]
            if entry["key"] == "file":
                new.files[value["path"]] = base64.b64decode(value["content"])
            if entry["key"] == "lfsFile":
                new.files[value["path"]] = self.blobs[value["oid"]]
                new.large[value["path"]] = value["oid"]
        self.repositories[repository].append(new)
        return new


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve on a free port of 127.0.0.1."""
    hub = Hub()
    handler = type("Handler", (HubHandler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    """Answer one request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args) -> None:
        pass

    def serve(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self.offer_uploads(json.loads(body))
        elif parts[0] == "_lfs":
            self.hub.blobs[parts[1]] = body
            self.answer({})
        elif parts[:2] == ["api", "models"]:
            self.repository("/".join(parts[2:4]), parts[4:], body, is_api=True)
        else:
            self.repository("/".join(parts[:2]), parts[2:], body, is_api=False)

    do_GET = do_POST = do_PUT = do_HEAD = serve  # noqa: N815 - the names http.server calls

    def create(self, wish: dict) -> None:
        name = f"{wish.get('organization') or 'me'}/{wish['name']}"
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, [Commit("0" * 40)])
        self.answer({"url": f"{self.hub.url}/{name}"}, 409 if known else 200)

    def offer_uploads(self, batch: dict) -> None:
        objects = [
            entry | {"actions": {"upload": {"href": f"{self.hub.url}/_lfs/{entry['oid']}"}}}
            for entry in batch["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def repository(self, name: str, rest: list[str], body: bytes, is_api: bool) -> None:
        commit = self.hub.commit(name, rest[1] if len(rest) > 1 else None)
        if commit is None:
            known = name in self.hub.repositories
            self.answer({}, 404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        elif is_api and (not rest or rest[0] == "revision"):
            siblings = [{"rfilename": file} for file in commit.files]
            self.answer({"id": name, "sha": commit.sha, "private": False, "tags": [], "siblings": siblings})
        elif rest[0] == "preupload":
            self.answer({"files": [self.upload_mode(entry["path"]) for entry in json.loads(body)["files"]]})
        elif rest[0] == "commit":
            new = self.hub.apply(name, body)
            self.answer({"commitOid": new.sha, "commitUrl": f"{self.hub.url}/{name}/commit/{new.sha}"})
        elif rest[0] == "tree":
            self.answer(
                [
                    {
                        "type": "file",
                        "path": file,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for file, content in commit.files.items()
                ]
            )
        elif rest[0] == "resolve":
            self.file(commit, "/".join(rest[2:]))
        else:
            self.answer({}, 404)

    @staticmethod
    def upload_mode(path: str) -> dict:
        mode = "lfs" if path.endswith((".safetensors", ".opus")) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def file(self, commit: Commit, name: str) -> None:
        content = commit.files.get(name)
        head = {"X-Repo-Commit": commit.sha}
        if content is None:
            self.answer({}, 404, head | {"X-Error-Code": "EntryNotFound"})
            return
        head["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        if name in commit.large:
            head |= {"X-Linked-Etag": f'"{commit.large[name]}"', "X-Linked-Size": str(len(content))}
        self.answer(content, 200, head)

    def answer(self, content, code: int = 200, head: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(data)), **(head or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
