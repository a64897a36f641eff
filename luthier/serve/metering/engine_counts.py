"""What one process asks of its engine, beside what vLLM itself counts: for `luthier ledger reconcile`."""

from collections.abc import Callable

from prometheus_client import REGISTRY

from luthier.errors import LuthierError
from luthier.platform.settled import EngineCounts, Totals
from luthier.serve.complete import Tally, Visit

VLLM = {"prompt_tokens": "vllm:prompt_tokens_total", "generation_tokens": "vllm:generation_tokens_total"}


class Asked:
    """Belongs to one event loop; others may read."""

    def __init__(self, probes: Tally, num_open: Callable[[], int]) -> None:
        self._probes, self._num_open = probes, num_open
        self._sums = {"billed": Totals(), "elsewhere": Totals(), "unbilled": Totals()}
        self._repeated = self._abandoned = 0

    def add(self, visit: Visit) -> None:
        """Once it has ended."""
        tally, ask = visit.tally, visit.ask
        kind = "elsewhere" if not ask.is_billed and visit.error is None else "unbilled"
        if ask.is_billed and tally.prompt and visit.resolved:
            kind = "billed"
        self._sums[kind] += Totals(records=1, prompt_tokens=tally.prompt, completion_tokens=tally.completion)
        self._repeated += tally.prompt * (ask.request.n - 1)
        if visit.error is not None and not isinstance(visit.error, LuthierError):
            self._abandoned += tally.prompt * ask.request.n

    def counts(self) -> EngineCounts | None:
        """None where vLLM counts nothing."""
        engine = vllm_counters()
        if engine is None:
            return None
        probes = Totals(prompt_tokens=self._probes.prompt, completion_tokens=self._probes.completion)
        return EngineCounts(
            **engine,
            **self._sums,
            probes=probes,
            repeated_prompt_tokens=self._repeated,
            abandoned_prompt_tokens=self._abandoned,
            num_open=self._num_open(),
        )


def vllm_counters() -> dict[str, int] | None:
    """Since the process started."""
    found: dict[str, float] = {}
    for metric in REGISTRY.restricted_registry(VLLM.values()).collect():
        for sample in metric.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return {name: int(found[sample]) for name, sample in VLLM.items()} if len(found) == len(VLLM) else None
