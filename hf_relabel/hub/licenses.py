"""Which license identifiers the Hub knows.

`huggingface_hub` has no list of them (seen in 0.34 to 2.4), but a call that asks the Hub for it. It is asked only about
an identifier that is not among the common ones below, so that a card can be made without a network.
"""

import functools

from hf_relabel.errors import HubError
from hf_relabel.hub.client import HubRepo, HubUnreachable, RetryPolicy

_COMMON = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 c-uda cc cc-by-2.0 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m etalab-2.0 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 mit
mpl-2.0 odbl odc-by openrail other pddl unknown unlicense
"""

COMMON = frozenset(_COMMON.split())
"""Identifiers that are accepted without asking the Hub."""


def check_license_id(license_id: str, name: str = "license") -> None:
    """Refuse an identifier that the Hub does not know.

    Args:
        license_id: The identifier.
        name: What it is, for messages.

    Raises:
        HubError: The Hub does not know it, or cannot be asked about one that is not common.
    """
    if license_id in COMMON:
        return
    why = ""
    try:
        if license_id in listed_licenses():
            return
    except HubUnreachable as error:
        why = f" (it is not a common one, and the Hub could not be asked: {error})"
    raise HubError(f"{name} {license_id!r}: not an identifier that the Hub knows, such as cc-by-4.0{why}")


@functools.cache
def listed_licenses() -> frozenset[str]:
    """Ask the Hub for the licenses of datasets, once per process.

    Raises:
        HubUnreachable: It does not answer, or without such a list.
    """
    hub = HubRepo("licenses/datasets", RetryPolicy(attempts=1, timeout=30))  # any name: no repository is read
    try:
        tags = hub.ask("asking for the licenses", hub.api.get_dataset_tags)
        return frozenset(str(tag["id"]).removeprefix("license:") for tag in tags["license"])
    except (HubError, KeyError, TypeError, ValueError) as error:
        raise HubUnreachable(str(error) if isinstance(error, HubError) else "it sent no list of licenses") from error
