"""The training step as experienced PyTorch users would write it: the counterpart of `train_step`.

It has the same networks, streams, losses and optimisers: one pass of each image; a backward pass for each stream as
soon as its loss is known, which frees its activations; fused optimisers; discriminators whose weights require no
gradient while the segmenter learns. Extras of `train_step` (norms of gradients, skipped steps) are left out. Nothing
waits for the device within a step.
"""

import collections
import dataclasses

import torch
from ml_collections import ConfigDict

from benchmarks.common.random_batches import Batch
from benchmarks.pytorch import losses
from benchmarks.pytorch.networks import (
    BACKBONES,
    EFFICIENTNET,
    VITS,
    GlobalDiscriminator,
    SemanticDiscriminator,
    feature_cells,
    make_segmenter,
)

SOURCE, TARGET = 0, 1
# Parts of a setting, joined by "+". "passive" is set by the parent process: OMP_WAIT_POLICY=PASSIVE, so that waiting
# threads do not spin, which helps on a shared processor. "graphs" launches kernels as CUDA graphs, for processors that
# are too slow to launch them one by one.
TRANSFORMS = ("channels_last", "compile", "autotune", "graphs", "passive")
_MODES = {"compile": "default", "autotune": "max-autotune-no-cudagraphs", "graphs": "reduce-overhead"}
PLAIN = "plain"

Tensors = dict[str, dict[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Options of PyTorch.

    Attributes:
      memory_format: of images, activations and kernels.
      compile_mode: of `torch.compile`; None: no compilation.
    """

    memory_format: torch.memory_format
    compile_mode: str | None

    @classmethod
    def parse(cls, name: str) -> "Setting":
        """Parses "plain", or parts from `TRANSFORMS` joined by "+"; raises ValueError for anything else."""
        parts = [] if name == PLAIN else name.split("+")
        if unknown := set(parts) - set(TRANSFORMS):
            raise ValueError(f"Unknown setting {sorted(unknown)}. Valid: {PLAIN}, or of {', '.join(TRANSFORMS)}.")
        layout = torch.channels_last if "channels_last" in parts else torch.contiguous_format
        return cls(layout, next((mode for name, mode in _MODES.items() if name in parts), None))


class Training:
    """Networks, optimisers and the step.

    Attributes:
      networks: "segmenter", and "global" and "semantic" if their terms are active.
      device: of networks and batches.
    """

    def __init__(self, config: ConfigDict, num_classes: int, setting: Setting, device: torch.device):
        """Builds everything with random weights.

        Raises:
          ValueError: a setting of the configuration is not implemented in PyTorch.
        """
        _check(config)
        self._config, self._classes, self._setting, self.device = config, num_classes, setting, device
        self.networks = make_networks(config, num_classes)
        for network in self.networks.values():
            network.to(device, memory_format=setting.memory_format).train()
        self._optimizers = _optimizers(self.networks, config)
        self._count = 0
        names = ("source", "labelled", "unlabelled", "judge_global", "judge_semantic")
        self._parts = {name: self._compiled(getattr(self, f"_{name}")) for name in names}

    def place(self, batch: Batch) -> Tensors:
        """Moves a batch to the device, normalised, as an input pipeline would."""
        return {stream: self._place(examples) for stream, examples in batch.items()}

    def step(self, batch: Tensors) -> dict[str, torch.Tensor]:
        """Runs one step and returns its losses, on the device, under the names of `train_step`."""
        torch.compiler.cudagraph_mark_step_begin()  # Results of the previous step may be overwritten.
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        found, maps = {}, {}
        self._let_judges_learn(False)
        for stream, tensors in batch.items():
            total, found_here, maps[stream] = self._parts[stream](**tensors)
            total.backward()
            found |= {name: found.get(name, 0.0) + value for name, value in found_here.items()}
        self._let_judges_learn(True)
        for name in ("global", "semantic"):
            if name in self.networks:
                total = self._parts[f"judge_{name}"](maps)
                total.backward()
                found[f"loss/{name}_discriminator"] = total.detach()
        self.update()
        return found

    def update(self) -> None:
        """Updates all weights by their gradients, the segmenter's clipped, at the learning rates of the step."""
        self._set_rates()
        if clip := self._config.optimizer.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.networks["segmenter"].parameters(), clip)
        for optimizer in self._optimizers:
            optimizer.step()
        self._count += 1

    def _source(self, image: torch.Tensor, label: torch.Tensor, cells: torch.Tensor) -> tuple:
        """Returns the loss to differentiate, the losses to report, and the inputs of the discriminators."""
        loss, scores, features = self._supervised(image, label)
        judged = {}
        if "global" in self.networks:
            judged["probabilities"] = scores.detach().softmax(1)
        if "semantic" in self.networks:
            judged["means"] = losses.class_means(features.detach(), cells, self._classes)
        return loss, {"loss/segmentation_source": loss.detach()}, judged

    def _labelled(self, image: torch.Tensor, label: torch.Tensor, cells: torch.Tensor) -> tuple:
        loss, _, features = self._supervised(image, label)
        found, judged, total = {"loss/segmentation_labelled": loss.detach()}, {}, loss
        if "semantic" in self.networks:
            means, present = losses.class_means(features, cells, self._classes)
            fool = self._share * self._semantic_loss(means, present, SOURCE)
            total = loss + self._config.loss.semantic_weight * fool
            found["loss/semantic"], judged["means"] = fool.detach(), (means.detach(), present)
        return total, found, judged

    def _unlabelled(self, image: torch.Tensor) -> tuple:
        with self._precision():
            features, logits = self.networks["segmenter"](image)
        found, judged, total = {}, {}, image.new_zeros(())
        if "global" in self.networks:
            with self._precision():
                probabilities = losses.upsample(logits, image.shape[-2:]).softmax(1)
            fool = self._global_loss(probabilities, SOURCE)
            total = self._config.loss.global_weight * fool
            found["loss/global"], judged["probabilities"] = fool.detach(), probabilities.detach()
        if "semantic" in self.networks and self._config.loss.semantic_unlabelled:
            means, present = losses.soft_class_means(features, logits)
            fool = self._share * self._semantic_loss(means, present, SOURCE)
            total = total + self._config.loss.semantic_weight * fool
            found["loss/semantic"], judged["means"] = fool.detach(), (means.detach(), present)
        return total, found, judged

    def _judge_global(self, maps: dict) -> torch.Tensor:
        on_source = self._global_loss(maps["source"]["probabilities"], SOURCE)
        return 0.5 * (on_source + self._global_loss(maps["unlabelled"]["probabilities"], TARGET))

    def _judge_semantic(self, maps: dict) -> torch.Tensor:
        loss = self._semantic_loss(*maps["source"]["means"], SOURCE)
        for stream in ("labelled", "unlabelled"):
            if "means" in maps.get(stream, {}):
                loss = loss + self._share * self._semantic_loss(*maps[stream]["means"], TARGET)
        return 0.5 * loss

    def _supervised(self, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with self._precision():
            features, logits = self.networks["segmenter"](image)
            loss, scores = losses.segmentation_loss(logits, label)
        return loss, scores, features

    def _global_loss(self, probabilities: torch.Tensor, domain: int) -> torch.Tensor:
        with self._precision():
            return losses.global_loss(self.networks["global"](probabilities), domain)

    def _semantic_loss(self, means: torch.Tensor, present: torch.Tensor, domain: int) -> torch.Tensor:
        with self._precision():
            outputs = self.networks["semantic"](means)
            return losses.semantic_loss(outputs, domain, present, self._config.loss.semantic_outputs)

    @property
    def _share(self) -> float:
        """Of each target stream in the semantic term."""
        return 0.5 if self._config.loss.semantic_unlabelled else 1.0

    def _precision(self) -> torch.autocast:
        low = self._config.model.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def _compiled(self, function):
        mode = self._setting.compile_mode
        return function if mode is None else torch.compile(function, dynamic=False, mode=mode)

    def _let_judges_learn(self, learn: bool) -> None:
        for name in self.networks.keys() - {"segmenter"}:
            self.networks[name].requires_grad_(learn)

    def _set_rates(self) -> None:
        settings = self._config.optimizer
        factor = (1 - self._count / settings.decay_steps) ** settings.decay_power
        if settings.warmup_steps:
            factor *= min(1.0, (self._count + 1) / settings.warmup_steps)
        for group in [group for optimizer in self._optimizers for group in optimizer.param_groups]:
            group["lr"] = group["initial"] * factor

    def _place(self, examples: dict) -> dict[str, torch.Tensor]:
        model = self._config.model
        pixels = torch.from_numpy(examples["image"]).to(self.device).float()
        pixels = pixels.flip(-1) if model.pixel_order == "bgr" else pixels
        mean, deviation = (
            torch.tensor(value, device=self.device) for value in (model.pixel_mean, model.pixel_deviation)
        )
        image = ((pixels - mean) / deviation).permute(0, 3, 1, 2)
        found = {"image": image.contiguous(memory_format=self._setting.memory_format)}
        if "label" in examples:
            label = torch.from_numpy(examples["label"]).to(self.device).long()
            cells = [feature_cells(length, model.backbone, model.output_stride) for length in label.shape[1:]]
            rows, columns = (losses.nearest(*lengths) for lengths in zip(cells, label.shape[1:], strict=True))
            found |= {"label": label, "cells": label[:, rows][:, :, columns]}
        return found


def make_networks(config: ConfigDict, num_classes: int) -> dict[str, torch.nn.Module]:
    """Builds the segmenter, and each discriminator whose loss has a weight."""
    model, width = config.model, config.discriminator
    segmenter = make_segmenter(model.backbone, num_classes, model.branches, model.stride_in, model.output_stride)
    norms = [module for module in segmenter.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.requires_grad_(model.train_norm_affine)
    networks = {"segmenter": segmenter}
    if config.loss.global_weight > 0:
        networks["global"] = GlobalDiscriminator(num_classes, width.global_width)
    if config.loss.semantic_weight > 0:
        outputs = {"binary": 1, "class_domain": 2 * num_classes}
        networks["semantic"] = SemanticDiscriminator(
            segmenter.features, width.semantic_width, outputs[config.loss.semantic_outputs]
        )
    return networks


def _optimizers(networks: dict[str, torch.nn.Module], config: ConfigDict) -> list[torch.optim.Optimizer]:
    optimizers = [_segmenter_optimizer(networks["segmenter"], config.optimizer)]
    for name in networks.keys() - {"segmenter"}:
        rate = config.discriminator[f"{name}_learning_rate"]
        betas = tuple(config.discriminator.betas)
        optimizers.append(torch.optim.Adam(networks[name].parameters(), rate, betas, fused=True))
    for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
        group["initial"] = group["lr"]
    return optimizers


def _segmenter_optimizer(segmenter: torch.nn.Module, settings: ConfigDict) -> torch.optim.Optimizer:
    """Returns SGD or AdamW with a group for each learning rate and weight decay."""
    groups = collections.defaultdict(list)
    for name, value in segmenter.named_parameters():
        factor = settings.classifier_factor if name.startswith(f"{segmenter.head}.") else 1.0
        decayed = settings.decay_biases or value.ndim > 1
        if value.requires_grad:
            groups[settings.learning_rate * factor, settings.weight_decay * decayed].append(value)
    groups = [{"params": values, "lr": rate, "weight_decay": decay} for (rate, decay), values in groups.items()]
    if settings.kind == "adamw":
        return torch.optim.AdamW(groups, betas=tuple(settings.betas), fused=True)
    return torch.optim.SGD(groups, momentum=settings.momentum, fused=True)


def _check(config: ConfigDict) -> None:
    """Raises ValueError if the configuration needs something that is not implemented in PyTorch."""
    loss, model = config.loss, config.model
    is_vit = model.backbone in VITS
    known = {
        "loss.global_kind": loss.global_kind == "bce",
        "loss.semantic_input": loss.semantic_input == "features",
        "loss.warmup_steps": not loss.warmup_steps,
        "model.backbone": model.backbone in (*BACKBONES, EFFICIENTNET, *VITS),
        "model.batch_norm": model.batch_norm == "batch",
        "model.frozen_blocks": not model.frozen_blocks,
        "model.head": model.head == ("multilevel" if is_vit else "atrous"),
        "model.registers": not model.registers,
        "model.stochastic_depth": not model.stochastic_depth,
        "teacher.decay": not config.teacher.decay,
    }
    if unknown := [name for name, holds in known.items() if not holds]:
        raise ValueError(f"PyTorch's step does not implement this value of {', '.join(unknown)}.")
