"""What the test server answers at each route."""

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_http import Answer, Connection
from hub_store import LFS_SUFFIXES, REGULAR_LIMIT, Refused, Repo
from hub_values import metadata_errors

if TYPE_CHECKING:
    from hub_server import User

ROUTES = [
    ("whoami", "GET", r"/api/whoami-v2"),
    ("create", "POST", r"/api/repos/create"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("licenses", "GET", r"/api/datasets-tags-by-type"),
    ("preupload", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)"),
    ("commit", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)"),
    ("tag", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/tag/(?P<rev>[^/]+)"),
    ("branch", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/branch/(?P<rev>[^/]+)"),
    ("refs", "GET", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/refs"),
    ("discuss", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/discussions"),
    ("discussions", "GET", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/discussions"),
    ("discussion", "GET", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/discussions/(?P<number>\d+)"),
    ("status", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/discussions/(?P<number>\d+)/status"),
    ("merge", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/discussions/(?P<number>\d+)/merge"),
    ("tree", "GET", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)(/(?P<path>.+))?"),
    ("paths", "POST", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+)/paths-info/(?P<rev>[^/]+)"),
    ("info", "GET", r"/api/(datasets|models)/(?P<id>[^/]+/[^/]+?)(/revision/(?P<rev>[^/]+))?"),
    ("lfs_batch", "POST", r"/(datasets/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch"),
    ("lfs_put", "PUT", r"/lfs/(?P<id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})"),
    ("job_start", "POST", r"/api/jobs/(?P<owner>[^/]+)"),
    ("job", "GET", r"/api/jobs/(?P<owner>[^/]+)/(?P<id>[^/]+)"),
    ("resolve", "GET", r"/(datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
]
"""Name, method and path. HEAD is served as GET without the body."""


class Routes(Connection):
    """Serves requests: finds the route, plays the faults, and answers."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        found = (
            (route, match)
            for route, wanted, pattern in ROUTES
            if wanted == method and (match := re.fullmatch(pattern, split.path))
        )
        route, match = next(found, (None, None))
        if route is None:
            self._body()
            self._send(Answer({"error": "no such route"}, 404))
            return
        self.hub.requests.append((route, self.command, self.path))
        if hook := self.hub.before.pop(route, None):
            hook()
        fault = self.hub.take_fault(route)
        if fault and fault.action == "cut":
            self.rfile.read(min(1000, int(self.headers.get("Content-Length", 0)) // 2))
            self._drop()
            return
        self.body = self._body()
        if fault and fault.action == "hang":
            self.hub.reached.set()
            self.hub.closing.wait(60)
            self._drop()
            return
        if fault and fault.action == "status":
            self._send(Answer(fault.body, fault.status, fault.headers))
            return
        arguments = {key: unquote(value) if value else value for key, value in match.groupdict().items()}
        try:
            answer = getattr(self, f"_{route}")(**arguments)
        except Refused as refusal:
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            answer = Answer({"error": str(refusal)}, refusal.status, headers)
        if fault and fault.action == "lose":
            self._drop()
            return
        self._send(answer)

    # The user and the repository of a request

    def _user(self) -> "User | None":
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def _repo(self, id: str, write: bool = False) -> Repo:
        user = self._user()
        repo = self.hub.store.repos.get(id)
        owner = id.split("/")[0]
        is_member = user is not None and (user.name == owner or owner in user.organizations)
        if repo is None or (repo.private and not is_member):
            raise Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refused(401, "Invalid username or password.")
        if write and not user.may_write(owner):
            raise Refused(403, "You don't have the required permissions to perform this action")
        return repo

    def _json(self) -> Any:
        return json.loads(self.body)

    # Routes, in the order of ROUTES

    def _whoami(self) -> Answer:
        user = self._user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        access = {"displayName": "test", "role": user.role}
        auth = {"type": "access_token", "accessToken": access}
        orgs = [{"name": name, "type": "org", "roleInOrg": role} for name, role in user.organizations.items()]
        return Answer({"name": user.name, "type": "user", "orgs": orgs, "auth": auth})

    def _create(self) -> Answer:
        user, asked = self._user(), self._json()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        owner = asked.get("organization") or user.name
        if not user.may_write(owner):
            raise Refused(403, f"You don't have the rights to create a dataset under the namespace {owner!r}")
        repo_id = f"{owner}/{asked['name']}"
        kind = "datasets/" if asked.get("type") == "dataset" else ""
        url = f"{self.hub.endpoint}/{kind}{repo_id}"
        try:
            self.hub.store.create(repo_id, asked.get("private") is True or asked.get("visibility") == "private")
        except Refused as refusal:
            return Answer({"error": str(refusal), "url": url}, refusal.status)
        return Answer({"url": url, "name": repo_id, "id": repo_id})

    def _validate(self) -> Answer:
        content = self._json()["content"]
        parts = content.split("---\n", 2)
        try:
            metadata = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
        except yaml.YAMLError as error:
            return Answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
        errors = [{"message": message} for message in metadata_errors(metadata, self.hub.licenses)]
        return Answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _licenses(self) -> Answer:
        return Answer({"license": [{"id": f"license:{name}", "type": "license"} for name in self.hub.licenses]})

    def _preupload(self, id: str, rev: str) -> Answer:
        repo = self._repo(id, write="create_pr" not in self.query and not rev.startswith("refs/pr/"))
        known = repo.files(rev)
        files = []
        for asked in self._json()["files"]:
            path, size = asked["path"], asked["size"]
            lfs = path.endswith(LFS_SUFFIXES) or size > REGULAR_LIMIT
            oid = known[path].oid if path in known and not known[path].lfs else None
            mode = "lfs" if lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer({"files": files})

    def _commit(self, id: str, rev: str) -> Answer:
        pull_asked = "create_pr" in self.query
        repo = self._repo(id, write=not pull_asked and not rev.startswith("refs/pr/"))
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        for line in lines:
            if line["key"] == "file" and line["value"]["path"] == "README.md":
                self._refuse_bad_card(line["value"]["content"])
        oid, pull = repo.commit(rev, lines, pull_asked)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/datasets/{id}/commit/{oid}"}
        if pull:
            number = pull.rsplit("/", 1)[1]
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/datasets/{id}/discussions/{number}"
        return Answer(answer)

    def _refuse_bad_card(self, content: str) -> None:
        text = base64.b64decode(content).decode()
        self.body = json.dumps({"content": text}).encode()
        if self._validate().status != 200:
            raise Refused(400, "Invalid metadata in README.md")

    def _tag(self, id: str, rev: str) -> Answer:
        repo, asked = self._repo(id, write=True), self._json()
        with repo.lock:
            if asked["tag"] in repo.tags:
                raise Refused(409, f"Tag {asked['tag']} already exists")
            repo.tags[asked["tag"]] = repo.resolve(rev)
            repo.save()
        return Answer({})

    def _branch(self, id: str, rev: str) -> Answer:
        repo = self._repo(id, write=True)
        asked = json.loads(self.body or b"{}")
        with repo.lock:
            if rev in repo.branches:
                raise Refused(409, f"Branch {rev} already exists")
            repo.branches[rev] = repo.resolve(asked.get("startingPoint", "main"))
            repo.save()
        return Answer({})

    def _refs(self, id: str) -> Answer:
        repo = self._repo(id)

        def entries(refs: dict[str, str], prefix: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in refs.items()]

        answer = {"branches": entries(repo.branches, "refs/heads/"), "converts": []}
        answer["tags"] = entries(repo.tags, "refs/tags/")
        if "include_prs" in self.query:
            answer["pullRequests"] = [
                {"name": ref.removeprefix("refs/"), "ref": ref, "targetCommit": oid} for ref, oid in repo.pulls.items()
            ]
        return Answer(answer)

    def _discuss(self, id: str) -> Answer:
        user, asked = self._user(), self._json()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        return Answer({"num": self._repo(id).open_pull(asked["title"], user.name)})

    def _facts(self, id: str, number: str) -> dict[str, Any]:
        found = self._repo(id).discussions[number]
        date = "2026-01-01T00:00:00.000Z"
        facts = {"num": int(number), "title": found["title"], "status": found["status"], "createdAt": date}
        about = {"author": {"name": found["author"]}, "repo": {"name": id, "type": "dataset"}, "isPullRequest": True}
        return facts | about | {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "events": []}

    def _discussions(self, id: str) -> Answer:
        """One per page, the newest first, so that clients must follow the pages."""
        wanted = [
            number
            for number, found in reversed(self._repo(id).discussions.items())
            if found["author"] in self.query.get("author", [found["author"]])
        ]
        page = int(self.query["p"][0])
        entries = [self._facts(id, number) for number in wanted[page : page + 1]]
        return Answer({"count": len(wanted), "start": page, "discussions": entries})

    def _discussion(self, id: str, number: str) -> Answer:
        return Answer(self._facts(id, number))

    def _status(self, id: str, number: str) -> Answer:
        repo, asked = self._repo(id), self._json()
        repo.discussions[number]["status"] = asked["status"]
        repo.save()
        event = {"id": "0", "type": "status-change", "createdAt": "2026-01-01T00:00:00.000Z"}
        return Answer({"newStatus": event | {"author": {"name": "x"}, "data": {"status": asked["status"]}}})

    def _merge(self, id: str, number: str) -> Answer:
        self._repo(id, write=True).merge(number)
        return Answer({})

    def _tree(self, id: str, rev: str, path: str | None = None) -> Answer:
        files = self._repo(id).files(rev)
        prefix = f"{path}/" if path else ""
        below = {name: file for name, file in files.items() if name.startswith(prefix)}
        if path and not below:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries: dict[str, dict[str, Any]] = {}
        for name, file in sorted(below.items()):
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            if recursive or len(parts) == 1:
                entries[name] = file.info(name)
        return Answer(list(entries.values()))

    def _paths(self, id: str, rev: str) -> Answer:
        files = self._repo(id).files(rev)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = self._json()["paths"]
        else:
            asked = parse_qs(self.body.decode())["paths"]
        answer = []
        for path in asked:
            if path in files:
                answer.append(files[path].info(path))
            elif any(name.startswith(f"{path}/") for name in files):
                answer.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        return Answer(answer)

    def _info(self, id: str, rev: str | None = None) -> Answer:
        repo = self._repo(id)
        commit = repo.resolve(rev or "main")
        siblings = [{"rfilename": path} for path in sorted(repo.files(commit))]
        facts = {"id": id, "sha": commit, "private": repo.private, "author": id.split("/")[0], "siblings": siblings}
        date = "2026-01-01T00:00:00.000Z"
        more = {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "_id": "0" * 24}
        return Answer(facts | more | {"lastModified": date, "createdAt": date})

    def _lfs_batch(self, id: str) -> Answer:
        repo = self._repo(id)
        user = self._user()
        if user is None or user.role == "read":
            raise Refused(403, "You don't have the required permissions to perform this action")
        objects = []
        for asked in self._json()["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if not repo.object_path(asked["oid"]).exists():
                href = f"{self.hub.endpoint}/lfs/{id}/{asked['oid']}"
                entry["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(entry)
        return Answer({"transfer": "basic", "objects": objects})

    def _lfs_put(self, id: str, oid: str) -> Answer:
        repo = self.hub.store.repos[id]
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content is not what its hash says")
        repo.store(self.body)
        return Answer({})

    def _resolve(self, id: str, rev: str, path: str) -> Answer:
        repo = self._repo(id)
        commit = repo.resolve(rev)
        files = repo.files(commit)
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        file = files[path]
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{file.sha256 if file.lfs else file.oid}"',
            "Content-Type": "application/octet-stream",
        }
        return Answer(headers=headers, file=repo.object_path(file.sha256))

    def _job_start(self, owner: str) -> Answer:
        user = self._user()
        if user is None or not user.may_write(owner):
            raise Refused(403, "You don't have the required permissions to perform this action")
        self.hub.jobs.append(self._json() | {"owner": owner})
        return self._job(owner, f"job-{len(self.hub.jobs) - 1}", "RUNNING")

    def _job(self, owner: str, id: str, stage: str = "COMPLETED") -> Answer:
        """A job that has ended well at the first look."""
        facts = {"id": id, "createdAt": "2026-01-01T00:00:00.000Z", "owner": {"id": "0", "name": owner, "type": "user"}}
        return Answer(facts | {"status": {"stage": stage, "message": None}, "flavor": "cpu-basic"})
