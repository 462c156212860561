"""A classifier: any of the backbones, average pooling, and one linear layer."""

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from px_seg.models.encoders import build_encoder
from px_seg.models.weights import load_encoder


class Classifier(nn.Module, PyTorchModelHubMixin, library_name="px_seg", license="mit"):
    """Images (N, 3, H, W) to logits (N, classes).

    `encoder` is the same object that a segmenter of that name has, undilated, so that masks and weights pass from
    one to the other; `head` is linear on its last features, averaged over the image. `Classifier.from_pretrained`
    reads what `save_pretrained` wrote.
    """

    def __init__(self, encoder: str, classes: int) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder)
        self.head = nn.Linear(self.encoder.out_channels[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """The averages of the last features, (N, C): what the head sees."""
        return nn.functional.adaptive_avg_pool2d(self.encoder(images)[-1], 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def build_classifier(encoder: str = "resnet50", classes: int = 1000, weights: str = "imagenet") -> Classifier:
    """A classifier of images (N, 3, H, W) on the named encoder.

    `weights` is where the encoder starts; see `px_seg.models.load_encoder`. The head
    starts random, from torch's global generator. Raises InputError for an unknown encoder and weights that
    cannot be had.
    """
    model = Classifier(encoder, classes)
    load_encoder(model.encoder, encoder, weights)
    return model
