"""Segmentation runs that stop of themselves."""

from px_seg.tasks import Segmentation


class Interrupted(Segmentation):
    """Stops in the middle of the third epoch, as Ctrl-C would."""

    steps = 0

    def loss(self, logits, labels):
        self.steps += 1
        if self.steps == 6:
            raise KeyboardInterrupt
        return super().loss(logits, labels)


class Unfinished(Segmentation):
    """Stops after the last epoch, before anything is written of it."""

    def draw(self, folder, model, scores, title):
        raise KeyboardInterrupt
