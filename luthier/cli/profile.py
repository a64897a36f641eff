"""The local profile: which server, which key. A file in the home that only its owner can read."""

import json
import os
from pathlib import Path

from luthier.platform.frozen import Frozen
from luthier.platform.settings import Settings


class Profile(Frozen):
    url: str
    api_key: str


def profile_file(settings: Settings) -> Path:
    return settings.home / "profile.json"


def save_profile(settings: Settings, profile: Profile) -> None:
    """Mode 0600 from the first byte on."""
    part = profile_file(settings).with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(profile.model_dump(), file)
    os.replace(part, profile_file(settings))


def load_profile(settings: Settings) -> Profile | None:
    file = profile_file(settings)
    return Profile.model_validate_json(file.read_text()) if file.is_file() else None
