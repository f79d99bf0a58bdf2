#!/usr/bin/env python3
"""Prints the times of batches of ResNet-50 and BERT-base in PyTorch, in milliseconds, as JSON: the models that
image16 and text16 are like, in FP16, from inputs in the processor's memory to outputs there."""

import json
import statistics
import time

import torch
from torchvision.models import resnet50
from transformers import BertConfig, BertModel

SIZES = (1, 8, 32, 64)


def main() -> None:
    image = resnet50().half().cuda().eval().to(memory_format=torch.channels_last)
    text = BertModel(BertConfig()).half().cuda().eval()

    def run_image(pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.cuda(non_blocking=True).permute(0, 3, 1, 2).half() / 128
        return image(pixels.contiguous(memory_format=torch.channels_last)).cpu()

    def run_text(words: torch.Tensor) -> torch.Tensor:
        return text(input_ids=words.cuda(non_blocking=True)).last_hidden_state.mean(1).cpu()

    curves: dict[str, dict[int, float]] = {"image16": {}, "text16": {}}
    with torch.inference_mode():
        for rows in SIZES:
            pixels = torch.randint(0, 256, (rows, 224, 224, 3), dtype=torch.uint8).pin_memory()
            curves["image16"][rows] = milliseconds(lambda: run_image(pixels))
            words = torch.randint(0, 30522, (rows, 128)).pin_memory()
            curves["text16"][rows] = milliseconds(lambda: run_text(words))
    print(json.dumps(curves))


def milliseconds(run) -> float:
    for _ in range(5):
        run()
    times = []
    for _ in range(20):
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 4)


if __name__ == "__main__":
    main()
