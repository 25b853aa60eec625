"""Load a model, tune it on a folder of images, evaluate it on a shifted folder, and label an image.

Without arguments the script paints its own images and uses the small model of the package. With arguments it uses
yours.

    python examples/tune_a_folder.py                                   # needs no files
    python examples/tune_a_folder.py m photos/ sketches/ new.jpg       # model, images, a shifted folder, an image
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import sharpzo_mlx as sz


def paint_images(root: Path) -> list[str]:
    """Paint images; return the demonstration's model, a folder to tune on, a shifted folder, and a test image."""
    from sharpzo_mlx.demo import LIVING, MODEL_FOLDER, Amounts
    from sharpzo_mlx.demo.render import DATASET, render

    for _ in render(root, seed=0, amounts=Amounts(train=8, val=4, test=8, shifted=4)):
        pass
    image = next((root / DATASET / "test" / LIVING[0]).iterdir())
    return [str(MODEL_FOLDER), str(root / DATASET), str(root / "pencil"), str(image)]


def main() -> None:
    """Run the example with the given paths, or with painted images."""
    with tempfile.TemporaryDirectory() as scratch:
        model, dataset, shifted, image = sys.argv[1:] or paint_images(Path(scratch) / "images")
        clip = sz.load(model)
        config = sz.TuneConfig(shots=8, seed=0, query_budget=1500)
        run = sz.tune(clip, dataset, config, output=Path(scratch) / "run")
        print(f"test: zero-shot {run.results.zero_shot:.3f}, tuned {run.results.test:.3f}")
        report = sz.evaluate(run, shifted, clip=clip)
        print(f"shifted: zero-shot {report.zero_shot:.3f}, tuned {report.tuned:.3f}")
        for label, probability in sz.predict(run, image, top=3, clip=clip)[0].labels:
            print(f"{Path(image).name}: {label} {probability:.2f}")
        similarity = clip.encode_images([image]) @ clip.encode_texts(["a photo of an animal.", "a photo of a car."]).T
        print(f"plain CLIP: animal {similarity[0, 0].item():.2f}, car {similarity[0, 1].item():.2f}")


if __name__ == "__main__":
    main()
