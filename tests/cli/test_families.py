# SPDX-License-Identifier: Apache-2.0
"""``omniconv families``: every name leads to its convolution."""

from __future__ import annotations

import json

from omniconv.core.family import settings


def test_every_setting_is_listed(call):
    found = {row["family"]: row for row in json.loads(call("families --json").stdout)["rows"]}
    assert list(found) == list(settings())
    for name, (family, setting) in settings().items():
        assert found[name]["korean"] == setting.korean
        assert found[name]["folder"] == family.name
        assert found[name]["summary"]


def test_every_alias_is_understood(call):
    for row in json.loads(call("families --json").stdout)["rows"]:
        for name in [row["family"], row["family"].replace("-", "_").upper(), *row["aliases"]]:
            channels = "8 8 9" if 2 in row["dims"] else "8 8 9 --dim 1"
            said = call(f"explain {name.replace(' ', '_')} {channels} --json")
            assert json.loads(said.stdout)["family"] == row["family"], name


def test_aliases_are_not_shared():
    aliases = [alias.lower() for _, setting in settings().values() for alias in (setting.name, *setting.aliases)]
    assert len(aliases) == len(set(aliases))


def test_dimensions(call):
    one = {row["family"] for row in json.loads(call("families --dim 1 --json").stdout)["rows"]}
    assert set(settings()) - one == {"spatial-separable"}
    assert call("families --dim 4").exit_code == 2


def test_a_person_reads_names_aliases_and_layers(call):
    text = call("families --format human").stdout
    assert "atrous" in text
    assert "ConvTranspose{1,2,3}d" in text
    assert "전치 합성곱" in text
