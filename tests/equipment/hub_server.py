"""A local server with the part of the Hugging Face Hub's API that downloads use.

Serves folders as repositories. Repositories of the owner `gated` are gated; those of an
owner that is a number are answered with that status; others that are not served do not
exist.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BAD_TOKEN = "Invalid credentials in Authorization header"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers a request; `server.repos` maps repository ids to folders."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._send_api("/".join(parts[2:4]), parts[4:])
        else:
            self._send_file("/".join(parts[:2]), "/".join(parts[4:]))

    do_HEAD = do_GET

    def _send_refusal(self, repo):
        """Send the error of a repository that is not served; False if it is served."""
        owner = repo.split("/")[0]
        if owner == "gated":
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif owner.isdigit():
            token = {"X-Error-Message": BAD_TOKEN} if owner == "401" else {}
            self._send(int(owner), b"{}", token)
        elif repo not in self.server.repos:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            return False
        return True

    def _send_api(self, repo, rest):
        if self._send_refusal(repo):
            return
        folder = self.server.repos[repo]
        files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
        names = [str(f.relative_to(folder)) for f in files]
        if rest[:1] == ["tree"]:
            body = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": etag(f)}
                for n, f in zip(names, files, strict=True)
            ]
        else:
            body = {
                "id": repo,
                "sha": COMMIT,
                "siblings": [{"rfilename": n} for n in names],
            }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send_file(self, repo, name):
        if self._send_refusal(repo):
            return
        file = self.server.repos[repo] / name
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{etag(file)}"', "X-Repo-Commit": COMMIT}
        self._send(200, file.read_bytes(), headers)

    def _send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def etag(file: Path) -> str:
    """The digest of a file that the Hub sends as its ETag."""
    return hashlib.sha1(file.read_bytes()).hexdigest()


class Hub:
    """A running server, as a context manager.

    Args:
        repos: Folders by repository id.
    """

    def __init__(self, repos: dict[str, Path]):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.repos, self.server.requests = repos, []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def requests(self) -> list[str]:
        """Method and path of each request so far."""
        return self.server.requests

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
