"""List the published versions of a dataset on the Hub.

hf-relabel versions user/name
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("repo", help="dataset repository, user/name")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.evaluation.report import render
    from hf_relabel.hub.client import HubRepo
    from hf_relabel.hub.versions import published_versions
    from hf_relabel.release.layout import MANIFEST

    repo = HubRepo(args.repo)
    refs = repo.refs()
    rows = []
    for version in published_versions(refs):
        commit = refs.tags[f"v{version}"]
        facts = ["", "", ""]
        if MANIFEST in repo.files(commit):
            statistics = json.loads(repo.read(MANIFEST, commit))["statistics"]
            facts = [statistics["images"], statistics["labels"], statistics["regions"]]
        on_branch = [name for name, head in refs.branches.items() if head == commit]
        rows.append([version, commit[:12], *facts, ", ".join(on_branch)])
    print(render(["version", "commit", "images", "labels", "regions", "head of"], rows) if rows else "no versions")
    return 0
