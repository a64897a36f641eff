"""A model on its way to another region. Nouns only."""

from luthier.platform.frozen import Frozen
from luthier.platform.models import ModelVersion


class Source(Frozen):
    """A model with all of its versions, as its own region has it."""

    account: str
    role: str
    """That owns it."""
    name: tuple[str, str, str]
    """Folded keys."""
    display: str
    created_on: int
    region: str
    versions: list[ModelVersion]
    default_version: int
    last_version: int
    aliases: dict[str, int]
    canary_version: int | None
    canary_share: float | None

    @property
    def answering(self) -> set[str]:
        """The base models of what answers to the name alone."""
        means = (self.default_version, self.canary_version)
        return {each.base_model for each in self.versions if each.version in means}


class Replicated(Frozen):
    """What `replicate` has done."""

    model: str
    region: str
    versions: list[int]
    """All that are there now."""
    new: list[int]
    """Those that were not there before."""
    dropped: list[int]
    """Those that were, and that its own region has no more."""
    copied_bytes: int
    default_version: int
