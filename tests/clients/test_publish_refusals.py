"""When the Hub refuses a release, the user reads the Hub's own reason, and as early as possible."""

import pytest
from hub_server import Fault

STORAGE = "Private repository storage limit reached, please upgrade your plan"
UPLOADS = ("preupload", "lfs_batch", "lfs_put", "commit")


@pytest.mark.parametrize(
    ("route", "fault", "expected"),
    [
        ("create", {"status": 403, "body": {"error": STORAGE}}, STORAGE),
        ("commit", {"status": 403, "body": {"error": STORAGE}}, STORAGE),
        ("commit", {"status": 402, "body": {"error": STORAGE}}, STORAGE),
        ("preupload", {"status": 403, "headers": {"X-Error-Message": STORAGE}, "body": {}}, STORAGE),
        ("lfs_batch", {"status": 403, "body": {"message": STORAGE}}, STORAGE),  # the body of git LFS
        ("lfs_put", {"status": 403, "body": {"error": STORAGE}}, STORAGE),  # the client wraps it in a RuntimeError
        (
            "tag",
            {"status": 403, "body": {"errors": [{"message": "You need the role write"}]}},
            "You need the role write",
        ),
    ],
)
def test_the_hubs_reason_is_shown(hub, hf_relabel, repo_id, v1, route, fault, expected):
    hub.faults.append(Fault(route, times=100, **fault))
    error = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").error()
    assert f"the Hub answered {fault['status']} ({expected})" in error
    assert "later" not in error, "waiting does not help"
    assert "use a token" not in error, "the Hub's words are enough"


def test_a_file_that_the_hub_refuses_alone(hub, hf_relabel, repo_id, v1):
    refused = {"objects": [{"oid": "0" * 64, "size": 1, "error": {"code": 413, "message": "too large for this plan"}}]}
    hub.faults.append(Fault("lfs_batch", status=200, body=refused, times=100))
    error = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0").error()
    assert "uploading data/" in error
    assert "too large for this plan" in error


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_card_that_the_hub_refuses_is_refused_before_any_upload(hub, hf_relabel, repo_id, v1, dry_run):
    body = {"errors": [{"message": '"license" must be one of [mit, ...]'}], "warnings": []}
    hub.faults.append(Fault("validate", status=400, body=body, times=100))
    error = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0", *dry_run).error()
    assert "checking the card's metadata" in error
    assert '"license" must be one of [mit, ...]' in error
    assert not any(hub.count(route) for route in UPLOADS)
    assert repo_id not in hub.store.repos


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_member_who_may_only_read(hub, command, v1, dry_run):
    arguments = ["publish", v1.folder, "readers/tiny", "--version", "1.0.0", *dry_run]
    error = command(*arguments, token="hf_member_secret").error()
    assert "member may only read in the organization readers (role read)" in error
    assert "--create-pr" in error
    assert not any(hub.count(route) for route in ("create", *UPLOADS))


def test_names_in_any_case(hub, hf_relabel, command, repo_id, v1, v2):
    owner, name = repo_id.split("/")
    out = hf_relabel("publish", v1.folder, f"{owner.upper()}/{name}", "--version", "1.0.0").ok()
    assert f'load_dataset("{repo_id}", revision="v1.0.0")' in out
    assert hub.repo(repo_id).tags
    command("publish", v1.folder, "wRITERS/tiny", "--version", "1.0.0", token="hf_member_secret").ok()
    assert hub.repo("Writers/tiny").tags


def test_waits_as_long_as_the_rate_limit_says(hub, hf_relabel, repo_id, v1):
    limits = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.faults.append(Fault("commit", status=429, headers=limits))
    done = hf_relabel("publish", v1.folder, repo_id, "--version", "1.0.0")
    done.ok()
    assert "retrying in 2 s" in done.err
    assert hub.repo(repo_id).tags
