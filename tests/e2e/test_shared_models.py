"""On a real cluster: a model is trained again from its frozen data, and another account asks it through a share."""

import pytest

import luthier
from luthier.cli.client import FinetuneJob
from luthier.errors import LuthierError, ModelNotFound, NotAllowed
from tests.e2e.jobs import FIRST, ended
from tests.e2e.live import BASE, SECONDS, LiveCluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SHARED = "theirs.public.first@2"
GIVEN = (("DATABASE", "luthier"), ("SCHEMA", "luthier.public"), ("MODEL", "first"))


def test_a_model_that_is_trained_again_answers_another_account(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    client = cluster.client
    described = ended(client.finetune.retune("first", BASE))
    assert described["status"] == "SUCCESS", described
    before = first_job.describe()
    for told in ("train_sha256", "validation_sha256", "rows", "trained_tokens"):
        assert described["report"][told] == before["report"][told]
    partner = luthier.Client(client.url, client.accounts.create("partner")["api_key"])
    client.shares.create("partners")
    for kind, name in GIVEN:
        client.shares.grant("partners", kind, name)
    client.shares.add_accounts("partners", ["partner"])
    partner.shares.use("main", "partners", "theirs")
    assert {prompt: partner.complete(SHARED, prompt) for prompt in FIRST} == FIRST
    with pytest.raises(NotAllowed):
        partner.models.artifacts(SHARED)
    usage = until(lambda: partner.usage("completions"), SECONDS, "usage of the partner")
    assert {row["model"] for row in usage} == {"main.LUTHIER.PUBLIC.FIRST"}
    client.shares.drop("partners")
    assert until(lambda: _error(partner), SECONDS, "the end of the share") is ModelNotFound
    client.models.drop("first@2")


def _error(partner: luthier.Client) -> type[LuthierError] | None:
    try:
        partner.complete(SHARED, "the dog")
    except LuthierError as error:
        return type(error)
    return None
