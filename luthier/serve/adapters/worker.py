"""What is added to vLLM's workers: an adapter is read beside the steps, and put into memory between two of them.

By itself vLLM reads an adapter within a step: all streams wait for the disk, and a file that cannot be read ends the
engine. Methods are called by collective_rpc; what goes wrong with an adapter they return in words.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

NUM_FAR = 4
"""Threads that read what is far: a storage that hangs keeps them."""
MAX_WORDS = 300
"""Characters of an error."""


class AdapterWorker:
    """Mixed into vLLM's worker, whose own names it must not take."""

    model_runner: Any

    def begin_adapter(self, number: int, name: str, path: str, is_far: bool) -> None:
        """Starts to read an adapter's files into host memory; those that are far, in storage, hold up no others."""
        near, far = self._adapter_threads()
        self._adapters_coming()[number] = (far if is_far else near).submit(self._read_adapter, number, name, path)

    def take_adapters(self, numbers: list[int]) -> list[tuple[int, tuple[str, bool] | None]]:
        """Puts those that have been read into the engine, for good until they are dropped; or says why that cannot be,
        and whether storage is to blame, not the adapter. Asked again it says so again: another worker may take longer.
        """
        coming, taken = self._adapters_coming(), self._adapters_taken()
        for number in numbers:
            if number in coming and coming[number].done():
                taken[number] = self._take_adapter(number)
        return [(number, taken[number]) for number in numbers if number in taken]

    def _take_adapter(self, number: int) -> tuple[str, bool] | None:
        manager = self.model_runner.lora_manager._adapter_manager
        try:
            lora = self._adapters_coming().pop(number).result()
            manager.add_adapter(lora)
            manager.activate_adapter(number)  # copied into the layers now: there a wrong shape shows
        except Exception as error:  # of this adapter alone; within a step it would be the engine's end
            manager.remove_adapter(number)
            words = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_WORDS]
            return words, isinstance(error, OSError) or isinstance(error.__cause__, OSError)
        return None

    def drop_adapter(self, number: int) -> None:
        """In memory or on its way there."""
        if gone := self._adapters_coming().pop(number, None):
            gone.cancel()
        self._adapters_taken().pop(number, None)
        self.model_runner.lora_manager.remove_adapter(number)

    def adapter_places(self) -> list[int]:
        """The adapters in the layers' slots."""
        return [number for number in self.model_runner.lora_manager._adapter_manager.lora_index_to_id if number]

    def _read_adapter(self, number: int, name: str, path: str) -> Any:
        """ValueError where its numbers are too large for the engine's: those of others in its batches would be lost."""
        from vllm.lora.request import LoRARequest

        lora = self.model_runner.lora_manager._load_adapter(LoRARequest(name, number, path))
        for module, layer in lora.loras.items():
            a, b = layer.lora_a, layer.lora_b
            if a is None or b is None:
                raise ValueError(f"{module} has one matrix only")
            if not (a.isfinite().all() and (b * layer.scaling).isfinite().all()):
                raise ValueError(f"{module} has numbers beyond those of {b.dtype}")
        return lora

    def _adapter_threads(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        if not hasattr(self, "_adapter_pools"):
            self._adapter_pools = ThreadPoolExecutor(1), ThreadPoolExecutor(NUM_FAR)
        return self._adapter_pools

    def _adapters_coming(self) -> dict[int, "Future[Any]"]:
        if not hasattr(self, "_adapter_readings"):
            self._adapter_readings: dict[int, Future[Any]] = {}
        return self._adapter_readings

    def _adapters_taken(self) -> dict[int, tuple[str, bool] | None]:
        if not hasattr(self, "_adapter_outcomes"):
            self._adapter_outcomes: dict[int, tuple[str, bool] | None] = {}
        return self._adapter_outcomes
