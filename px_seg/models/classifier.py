"""A classifier: any of the backbones, average pooling, and one linear layer."""

from collections.abc import Mapping, Sequence
from typing import cast

from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin
from torch import Tensor, nn

from px_seg.errors import InputError
from px_seg.models.encoders import build_encoder
from px_seg.models.normalisations import normalisation_of, tell_normalisation
from px_seg.models.weights import load_encoder


class Classifier(nn.Module, PyTorchModelHubMixin, library_name="px_seg", license="mit"):
    """Images (N, 3, H, W) to logits (N, classes).

    `encoder` is the same object that a segmenter of that name has, undilated, so that masks and weights pass from
    one to the other; `head` is linear on its last features, averaged over the image; `names` are those of the classes,
    where they are known. `Classifier.from_pretrained` reads what `save_pretrained` wrote.
    """

    def __init__(self, encoder: str, classes: int, names: Sequence[str] | None = None) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(f"a classifier needs at least one class, got {classes}")
        self.names = names
        self.encoder = build_encoder(encoder)
        # Not a tensor or a module, as torch has it of all attributes of modules.
        channels = cast(Sequence[int], self.encoder.out_channels)
        self.head = nn.Linear(channels[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """The averages of the last features, (N, C): what the head sees."""
        return nn.functional.adaptive_avg_pool2d(self.encoder(images)[-1], 1).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def generate_model_card(
        self, dataset: str = "", scores: Mapping[str, object] | None = None, **_: object
    ) -> ModelCard:
        """The README.md that `save_pretrained` writes: how to load the model, and what it was trained on."""
        data = ModelCardData(library_name="px_seg", license="mit", tags=["px_seg", "image-classification", "sparse"])
        rows = "\n".join(
            f"| {name} | {f'{value:.4f}' if isinstance(value, float) else value} |"
            for name, value in {"dataset": dataset, **(scores or {})}.items()
        )
        return ModelCard(
            f"---\n{data.to_yaml()}\n---\n\n# A px_seg classifier\n\n```python\nimport px_seg\n\n"
            f"model = px_seg.Classifier.from_pretrained(folder).eval()\n```\n\n| | |\n|---|---|\n{rows}\n"
        )


def build_classifier(encoder: str = "resnet50", classes: int = 1000, weights: str | None = "imagenet") -> Classifier:
    """A classifier of images (N, 3, H, W) on the named encoder.

    `weights` is where the encoder starts; see `px_seg.models.load_encoder`. The head
    starts random, from torch's global generator. Raises InputError for an unknown encoder and weights that
    are not available.
    """
    model = Classifier(encoder, classes)
    load_encoder(model.encoder, encoder, weights)
    tell_normalisation(model, normalisation_of(encoder, weights))
    return model
