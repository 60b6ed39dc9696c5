"""Well-made models with random weights, each with its optimizer, its loss and a batch: lint says nothing of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conftest import require

Case = dict[str, Any]

NUM_CLASSES = 4


class Residual(nn.Module):
    """A module whose result is added to its input."""

    def __init__(self, *layers: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut or nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layers(inputs) + self.shortcut(inputs)
        return out


class Scale(nn.Module):
    """A factor for each channel, small at first, as in ConvNeXt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.gamma


class Permute(nn.Module):
    """Another order of the dimensions."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.permute(*self.order)


def images(size: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(16, 3, size, size), torch.arange(16) % NUM_CLASSES


def convolve(inside: int, outside: int, size: int = 3, **more: Any) -> list[nn.Module]:
    """A convolution without bias, and its BatchNorm."""
    padding = more.pop("padding", size // 2)
    return [nn.Conv2d(inside, outside, size, padding=padding, bias=False, **more), nn.BatchNorm2d(outside)]


def make_resnet() -> Case:
    stem = [*convolve(3, 8, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    narrow = Residual(*convolve(8, 8), nn.ReLU(inplace=True), *convolve(8, 8))
    wider = Residual(
        *convolve(8, 16, stride=2),
        nn.ReLU(inplace=True),
        *convolve(16, 16),
        shortcut=nn.Sequential(*convolve(8, 16, 1, stride=2)),
    )
    for block in (narrow, wider):
        nn.init.zeros_(next(block.layers[-1].parameters()))  # of the BatchNorm that ends the branch
    model = nn.Sequential(
        *stem, narrow, nn.ReLU(inplace=True), wider, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, NUM_CLASSES)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    return {
        "model": model,
        "optimizer": optimizer,
        "loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1),
        "batch": images(),
    }


def make_vgg() -> Case:
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(True),
    ]
    head = [nn.Linear(8 * 64, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, NUM_CLASSES)]
    model = nn.Sequential(*layers, nn.Flatten(), *head)
    for each in model.parameters():
        each.data = each.data.to(memory_format=torch.channels_last) if each.ndim == 4 else each.data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return {"model": model, "optimizer": optimizer, "loss_fn": F.cross_entropy, "batch": images()}


def make_mobilenet() -> Case:
    inverted = Residual(
        *convolve(8, 32, 1), nn.ReLU6(True), *convolve(32, 32, groups=32), nn.ReLU6(True), *convolve(32, 8, 1)
    )
    stem = [*convolve(3, 8, stride=2), nn.Hardswish()]
    model = nn.Sequential(
        *stem, inverted, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, NUM_CLASSES)
    )
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = 0.01
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.9)
    return {"model": model, "optimizer": optimizer, "loss_fn": F.cross_entropy, "batch": images()}


class Patches(nn.Module):
    """A vision transformer: patches, a class token, positions that begin at 0."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 17, width))
        layers = [nn.TransformerEncoderLayer(width, 2, 32, batch_first=True, norm_first=True) for _ in range(2)]
        self.layers, self.norm, self.head = nn.ModuleList(layers), nn.LayerNorm(width), nn.Linear(width, NUM_CLASSES)
        nn.init.zeros_(self.head.weight)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.cut(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        out: Tensor = self.head(self.norm(tokens)[:, 0])
        return out


def make_vit() -> Case:
    model = Patches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    return {"model": model, "optimizer": optimizer, "loss_fn": F.cross_entropy, "batch": images()}


def make_convnext() -> Case:
    block = Residual(
        nn.Conv2d(8, 8, 7, padding=3, groups=8),
        Permute(0, 2, 3, 1),
        nn.LayerNorm(8),
        nn.Linear(8, 32),
        nn.GELU(),
        nn.Linear(32, 8),
        Scale(8),
        Permute(0, 3, 1, 2),
    )
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, NUM_CLASSES)]
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), block, *head)
    decayed = [each for each in model.parameters() if each.ndim > 1]
    others = [each for each in model.parameters() if each.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=4e-3)
    return {"model": model, "optimizer": optimizer, "loss_fn": F.cross_entropy, "batch": images()}


def pretrained(name: str, config: dict[str, Any], batch: Callable[[], dict[str, Tensor]]) -> Case:
    """A model of transformers with random weights, and a batch of its own form."""
    require("transformers")
    import transformers

    kind = getattr(transformers, name)
    model = kind(kind.config_class(**config)).train()
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=5e-5), "batch": batch()}


WIDTHS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
}


def words() -> dict[str, Tensor]:
    """Token ids that are continued, with padding that the loss leaves out."""
    ids = torch.randint(4, 40, (4, 12))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def sentences() -> dict[str, Tensor]:
    """Token ids with a class for each sentence."""
    ids = torch.randint(4, 40, (12, 8))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(12) % NUM_CLASSES}


def make_lora() -> Case:
    require("peft")
    from peft import LoraConfig, get_peft_model

    case = pretrained("GPT2LMHeadModel", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}, words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks the model by a name that is going out of use
        model: Any = get_peft_model(case["model"], LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    trained = [each for each in model.parameters() if each.requires_grad]
    return {**case, "model": model, "optimizer": torch.optim.AdamW(trained, lr=1e-4)}


class Reader(nn.Module):
    """An LSTM that continues a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(30, 16), nn.LSTM(16, 16, 2, dropout=0.2), nn.Linear(16, 30)
        self.head.weight = nn.Parameter(self.head.weight)

    def forward(self, ids: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(ids))
        out: Tensor = self.head(hidden)
        return out


def make_lstm() -> Case:
    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[:-1]).flatten(0, 1), batch[1:].flatten())

    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    return {"model": model, "optimizer": optimizer, "compute_loss": compute_loss, "batch": torch.randint(30, (20, 8))}


def make_autoencoder() -> Case:
    coder = [
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
        nn.Linear(4, 16),
        nn.ReLU(),
        nn.Linear(16, 32),
        nn.Sigmoid(),
    ]
    model = nn.Sequential(*coder)
    optimizer = torch.optim.Adam(model.parameters())
    return {"model": model, "optimizer": optimizer, "loss_fn": F.binary_cross_entropy, "batch": torch.rand(16, 32)}


class Table(nn.Module):
    """A network for tables: categories embedded, numbers of any scale normalized by the first layer, one score."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.embed = nn.BatchNorm1d(5), nn.Embedding(7, 4)
        self.layers = nn.Sequential(nn.Linear(9, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([self.norm(numbers), self.embed(categories)], -1)).squeeze(-1)
        return out


def make_table() -> Case:
    model = Table()
    batch = 1000 * torch.randn(16, 5), torch.randint(7, (16,)), (torch.arange(16) % 2).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return {"model": model, "optimizer": optimizer, "loss_fn": nn.BCEWithLogitsLoss(), "batch": batch}


SOUND: list[Any] = [
    pytest.param(make_resnet, id="resnet-with-zeroed-branches"),
    pytest.param(make_vgg, id="vgg-channels-last"),
    pytest.param(make_mobilenet, id="mobilenet"),
    pytest.param(make_vit, id="vit-with-zeroed-head"),
    pytest.param(make_convnext, id="convnext"),
    pytest.param(
        lambda: pretrained("BertForSequenceClassification", {**WIDTHS, "num_labels": NUM_CLASSES}, sentences), id="bert"
    ),
    pytest.param(
        lambda: pretrained("GPT2LMHeadModel", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}, words),
        id="gpt2-tied",
    ),
    pytest.param(
        lambda: pretrained(
            "T5ForConditionalGeneration",
            {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
            | {"decoder_start_token_id": 0},
            words,
        ),
        id="t5-shared",
    ),
    pytest.param(
        lambda: pretrained("LlamaForCausalLM", {**WIDTHS, "num_key_value_heads": 1, "pad_token_id": 0}, words),
        id="llama",
    ),
    pytest.param(lambda: pretrained("RobertaForMaskedLM", WIDTHS, words), id="roberta-masked"),
    pytest.param(
        lambda: pretrained(
            "ViTForImageClassification",
            {**WIDTHS, "image_size": 16, "patch_size": 4, "num_labels": NUM_CLASSES},
            lambda: {"pixel_values": torch.randn(8, 3, 16, 16), "labels": torch.arange(8) % NUM_CLASSES},
        ),
        id="vit-of-transformers",
    ),
    pytest.param(
        lambda: pretrained(
            "WhisperForConditionalGeneration",
            {"vocab_size": 40, "num_mel_bins": 8, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
            | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
            | {"max_source_positions": 16, "pad_token_id": 0, "decoder_start_token_id": 1, "bos_token_id": 1}
            | {"eos_token_id": 2, "suppress_tokens": [], "begin_suppress_tokens": []},
            lambda: {"input_features": torch.randn(4, 8, 32), "labels": torch.randint(4, 40, (4, 6))},
        ),
        id="whisper",
    ),
    pytest.param(make_lora, id="lora-on-a-frozen-base"),
    pytest.param(make_lstm, id="lstm"),
    pytest.param(make_autoencoder, id="autoencoder"),
    pytest.param(make_table, id="table-of-large-numbers"),
]
