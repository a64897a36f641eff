"""What transformers says of a fingerprint's probes."""

import torch

from luthier.platform.weights.fingerprint import Fingerprint


def scores(model: torch.nn.Module, probes: Fingerprint) -> list[list[float]]:
    found = []
    for probe in probes.probes:
        with torch.no_grad():
            logits = model(torch.tensor([probe.ids])).logits[0].float().log_softmax(-1)
        found.append([float(logits[at - 1, probe.ids[at]]) for at in range(probe.start, len(probe.ids))])
    return found
