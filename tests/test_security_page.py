"""docs/security.md names settings that there are."""

import re

from cutout_gateway.settings import GatewaySettings
from cutout_server.callers.quotas import Quotas
from cutout_server.settings import ApiKey, Settings
from documentation import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
KNOWN = {name for model in (Settings, GatewaySettings, Quotas, ApiKey) for name in model.model_fields}


def test_its_settings_exist():
    """Every name in backticks that reads like a setting is one, or the beginning of some."""
    named = re.findall(r"`([a-z]+(?:_[a-z0-9]+)*_(?:[a-z0-9]+|\*))`", PAGE)
    assert len(named) > 30
    unknown = {name for name in named if not any(re.fullmatch(name.replace("*", ".*"), known) for known in KNOWN)}
    assert {name for name in unknown if not name.startswith("cutout_")} == set()


def test_every_bound_is_on_it():
    """No limit of the server's or the gateway's on what strangers send is missing."""
    bounds = {name for name in KNOWN if re.match(r"max_(?!batch|encode)", name)}
    assert {name for name in bounds if f"`{name}`" not in PAGE} == set()
