"""License identifiers: common ones need no network, others are those that the Hub lists."""

import huggingface_hub
import pytest

from hf_relabel.errors import HubError
from hf_relabel.hub import licenses
from hf_relabel.hub.licenses import check_license_id, listed_licenses


@pytest.fixture(autouse=True)
def nothing_asked_yet(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    listed_licenses.cache_clear()
    yield
    listed_licenses.cache_clear()


def answer_with(monkeypatch, tags: object) -> list[int]:
    asked: list[int] = []

    def tags_of(api: object) -> object:
        asked.append(1)
        return tags

    monkeypatch.setattr(huggingface_hub.HfApi, "get_dataset_tags", tags_of)
    return asked


def test_the_hub_is_asked_once_and_only_about_uncommon_licenses(monkeypatch):
    asked = answer_with(monkeypatch, {"license": [{"id": "license:cc-by-5.0"}], "language": []})
    check_license_id("cc-by-4.0")
    assert not asked
    check_license_id("cc-by-5.0")
    with pytest.raises(HubError, match=r"--images-license 'cc-by-6\.0': not an identifier that the Hub knows"):
        check_license_id("cc-by-6.0", "--images-license")
    assert asked == [1]


@pytest.mark.parametrize("tags", [{}, [], {"license": [{"name": "mit"}]}, {"license": None}])
def test_an_answer_without_licenses(monkeypatch, tags):
    answer_with(monkeypatch, tags)
    with pytest.raises(HubError, match=r"could not be asked: it sent no list of licenses\)$"):
        check_license_id("cc-by-5.0")


def test_without_a_network_a_common_license_is_enough(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for license_id in licenses.COMMON:
        check_license_id(license_id)
    with pytest.raises(HubError, match=r"'my-own': not an identifier that the Hub knows.*HF_HUB_OFFLINE is set"):
        check_license_id("my-own")
