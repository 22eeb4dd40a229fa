"""List the published versions of a dataset on the Hub.

hf-relabel versions user/name
"""

import json
from dataclasses import dataclass

from hf_relabel.commands.options import Command, positional


@dataclass(frozen=True, kw_only=True)
class VersionsSettings:
    """Versions.

    Args:
        repo: Dataset repository, user/name.
    """

    repo: str = positional("REPO")


def run(settings: VersionsSettings) -> int:
    """Run the command; returns the exit status."""
    from hf_relabel.evaluation.report import render
    from hf_relabel.hub.client import HubRepo
    from hf_relabel.hub.versions import published_versions
    from hf_relabel.release.layout import MANIFEST

    repo = HubRepo(settings.repo)
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


COMMANDS = {
    "versions": Command(
        name="versions",
        summary="list the published versions of a dataset on the Hub",
        settings=VersionsSettings,
        run=run,
        description=__doc__ or "",
    )
}
