"""Ray's TorchTrainer in fewer processes: each that starts imports Ray Train for seconds, while the job waits.

Built on inner parts of Ray; tests/train/test_launch.py and the end-to-end tests watch them.
"""

import asyncio
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller.controller import TrainController

NOT_NEEDED = DatasetsCallback, PlacementGroupCleanerCallback


class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray is untyped
    """Must run in a detached actor that never restarts: its end is that of the run, of its workers and their room.

    The controller runs in the actor itself. Ray frees the placement group of a detached actor that has died, so none
    has to watch over it; and there are no Ray Data sets.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, NOT_NEEDED)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        controller = TrainController(**parts)
        asyncio.run(controller.run())
        return controller.get_result()
