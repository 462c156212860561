"""A repair under torchrun; each rank writes down what its model then is."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save_file

from helpers.runs import CONFIGS
from px_seg import Magnitude, prune
from px_seg.command_line import parse
from px_seg.run.repairing import repair
from px_seg.tasks import Segmentation

FLAGS = ["--data.train_images", "8", "--data.val_images", "4", "--data.size", "32", "--recalibrate", "reconstruct"]
FLAGS += ["--pruning.batches", "2", "--pruning.batch_size", "2"]

if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator()
    config = parse(Segmentation.config_type, FLAGS, CONFIGS / "seg", "")
    task = Segmentation(config)
    set_seed(0)
    model = task.build_model()
    masks = prune(model, (), 0.9, Magnitude(), task.scope)
    repair(accelerator, model, task, masks, config)
    save_file(dict(model.state_dict()), Path(sys.argv[1]) / f"{accelerator.process_index}.safetensors")
    accelerator.end_training()
