"""The local profile: which server, which key. A file in the home that only its owner can read."""

from pathlib import Path

from luthier.platform.frozen import Frozen
from luthier.platform.settings import Settings
from luthier.platform.whole_files import write_whole


class Profile(Frozen):
    url: str
    api_key: str


def profile_file(settings: Settings) -> Path:
    return settings.home / "profile.json"


def save_profile(settings: Settings, profile: Profile) -> None:
    write_whole(profile_file(settings), profile.model_dump_json(), 0o600)


def load_profile(settings: Settings) -> Profile | None:
    file = profile_file(settings)
    return Profile.model_validate_json(file.read_text()) if file.is_file() else None
