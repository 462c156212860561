"""A repair under torchrun; each rank writes down what its model then is."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save_file
from torch import nn

from helpers.runs import CONFIGS
from px_seg import Magnitude, Masks, prune
from px_seg.command_line import parse
from px_seg.run.repairing import repair, repair_between_rounds
from px_seg.tasks import Segmentation

FLAGS = ["--data.train_images", "8", "--data.val_images", "4", "--data.size", "32", "--recalibrate", "reconstruct"]
FLAGS += ["--pruning.batches", "2", "--pruning.batch_size", "2", "--recalibrate_rounds"]

if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator()
    config = parse(Segmentation.config_type, FLAGS, CONFIGS / "seg", "")
    task = Segmentation(config)
    set_seed(0)
    model = task.build_model()
    between: list[nn.Module] = []

    def noted(network: nn.Module, masks: Masks) -> None:
        # Each process has other weights before.
        for weight in network.parameters():
            weight.data += accelerator.process_index
        repair_between_rounds(accelerator, task, config)(network, masks)
        between.append(network)

    group = torch.distributed.group.WORLD
    masks = prune(model, (), 0.99, Magnitude(), task.scope, rounds=2, group=group, repair=noted)
    repair(accelerator, model, task, masks, config)
    for name, network in (("", model), ("between", *between)):
        save_file(dict(network.state_dict()), Path(sys.argv[1]) / f"{name}{accelerator.process_index}.safetensors")
    accelerator.end_training()
