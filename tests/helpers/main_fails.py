"""Work of the main process that fails, under torchrun; each rank writes down what it was told."""

import sys
from pathlib import Path

from accelerate import Accelerator

from px_seg import InputError
from px_seg.devices import main_only

if __name__ == "__main__":
    accelerator = Accelerator()

    def refuse() -> None:
        raise InputError(f"refused by {accelerator.process_index}")

    try:
        main_only(accelerator, refuse)
    except InputError as error:
        (Path(sys.argv[1]) / f"{accelerator.process_index}.txt").write_text(str(error))
    accelerator.end_training()
