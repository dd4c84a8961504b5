"""A denoising autoencoder: a network that learns to take noise off images.

    python denoise.py                         # MNIST if it is on this computer
    python denoise.py --download              # fetch MNIST first (11 MB, once)
    python denoise.py --rows 1000 --epochs 2  # a quick look

It gets noisy images and is shown the clean ones; every epoch has new noise (`GaussianNoise` is
active in training only, so the test images get theirs from NumPy). Two convolutions with strides
make the image smaller, two transposed ones larger again: what fits through the middle is digits,
not noise. Vincent et al., Extracting and composing robust features with denoising autoencoders,
2008.

Without MNIST it takes the small digits that come with fastnet (8 x 8 pixels). The plot needs
matplotlib (pip install matplotlib); everything else works without it.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import fastnet as fn
from fastnet import datasets, layers, optimizers, schedules

NOISE = 0.5  # standard deviation; pixels are 0 to 1


def mnist_is_here():
    """Whether the four files of MNIST are where fastnet looks for them."""
    folders = [datasets.cache_folder() / "mnist"]
    if os.environ.get("FASTNET_DATA"):
        data = Path(os.environ["FASTNET_DATA"])
        folders += [data / "mnist", data]
    return any(len({f.name[:9] for f in folder.glob("*-ubyte*")}) == 4 for folder in folders)


def load(download):
    """Images (n, height, width, 1) from 0 to 1, for training and for the test; what they are."""
    if download or mnist_is_here():
        (x, _), (x_test, _) = datasets.load_mnist()
        what = "MNIST"
    else:
        (x, _), (x_test, _) = datasets.load_digits()
        what = "the digits embedded in fastnet (for MNIST: --download)"
    return *(np.float32(part)[..., None] / 255 for part in (x, x_test)), what


def autoencoder(shape, seed):
    """Noisy images (height, width, 1) -> clean ones."""
    same = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    return fn.Sequential(
        [
            layers.Input(shape),
            layers.GaussianNoise(NOISE),
            layers.Conv2D(16, 3, strides=2, **same),
            layers.Conv2D(32, 3, strides=2, **same),
            layers.Conv2DTranspose(16, 3, strides=2, **same),
            layers.Conv2DTranspose(8, 3, strides=2, **same),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ],
        seed=seed,
    )


def plot(clean, noisy, restored, out):
    """Eight test images, with noise and without it again."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no plot: pip install matplotlib")
        return
    figure, axes = plt.subplots(3, 8, figsize=(10, 4.2), layout="constrained")
    rows = {"clean": clean, "noisy": noisy, "restored": restored}
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(title, fontsize=13)
    figure.savefig(out, dpi=120)
    print(f"plot: {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, metavar="N", help="default: 3; small digits: 40")
    parser.add_argument("--rows", type=int, default=10_000, metavar="N", help="learn from so many")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--download", action="store_true", help="fetch MNIST if it is not here")
    parser.add_argument("--out", default="denoise.png", metavar="FILE", help="default: denoise.png")
    args = parser.parse_args()

    x, x_test, what = load(args.download)
    x = x[: args.rows]
    epochs = args.epochs or (3 if len(x) > 5000 else 40)
    print(f"{what}: {len(x)} images to learn from, {epochs} epochs")
    net = autoencoder(x.shape[1:], args.seed)
    net.summary()
    rate = schedules.CosineDecay(0.005, epochs * -(-len(x) // 64))
    trainer = fn.Trainer(net, "binary_cross_entropy", optimizers.Adam(rate))
    start = time.perf_counter()
    trainer.fit(x, x, batch_size=64, epochs=epochs, seed=args.seed)  # what goes in is to come out
    print(f"trained in {time.perf_counter() - start:.1f} s")
    rng = np.random.default_rng(args.seed)
    clean = x_test[:1000]
    noisy = clean + rng.normal(0, NOISE, clean.shape).astype(np.float32)
    restored = net.predict(noisy)
    before, after = (np.mean((images - clean) ** 2) for images in (np.clip(noisy, 0, 1), restored))
    print(
        f"mean squared error on {len(clean)} test images: {before:.4f} noisy, {after:.4f} restored"
    )
    plot(clean[:8], noisy[:8], restored[:8], args.out)


if __name__ == "__main__":
    main()
