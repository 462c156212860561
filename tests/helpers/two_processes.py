"""Two epochs of training under torchrun; each rank writes down what it saw and what came of it."""

import hashlib
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from helpers.runs import CONFIGS
from px_seg import Magnitude, prune
from px_seg.command_line import parse
from px_seg.data.loaders import training_loader
from px_seg.run.training import Unkept, fine_tune, prepare, share_buffers
from px_seg.tasks import Segmentation

FLAGS = ["--data.train_images", "8", "--data.val_images", "2", "--data.size", "32", "--batch_size", "2"]


class Watched(Segmentation):
    """Remembers which label maps the loss was computed on."""

    def loss(self, logits, labels):
        seen.setdefault(epoch, []).extend(hashlib.md5(part.numpy().tobytes()).hexdigest() for part in labels)
        return super().loss(logits, labels)


def digest(tensors) -> str:
    return hashlib.md5(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


accelerator = Accelerator(step_scheduler_with_optimizer=False)
torch.set_num_threads(1)
config = parse(Segmentation.config_type, FLAGS, CONFIGS / "seg", "")
task = Watched(config)
set_seed(0)
model = task.build_model()
masks = prune(model, (), 0.9, Magnitude(), task.scope)
loader = training_loader(task.train, config.batch_size, 0, 0, accelerator.num_processes)
prepared = prepare(accelerator, model, task, loader, config, 2)
seen: dict[int, list[str]] = {}
epoch = 1
with masks.hold(model, prepared.optimizer):
    for position in fine_tune(accelerator, task, prepared, 2, Unkept()):
        epoch = position.epoch + 1
share_buffers(accelerator, prepared)
result = {
    "images": seen,
    "weights": digest(model.parameters()),
    "buffers": digest(model.buffers()),
    "revived": masks.revived(model.state_dict()),
}
(Path(sys.argv[1]) / f"{accelerator.process_index}.json").write_text(json.dumps(result))
accelerator.end_training()
