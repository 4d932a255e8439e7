"""Speech networks of the optional extra `transformers`: wav2vec 2.0 XLSR Esperanto and HuBERT large.

METHOD.md section 2: `esperanto` takes 44 character logits, `hubert` the last hidden state of 1024, both at 50 Hz.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from instag.data.audio import get_extractor
from instag.data.layout import SAMPLE_RATE
from instag.errors import DataError, InstagError

DEFAULT_MODELS = {
    "esperanto": "cpierse/wav2vec2-large-xlsr-53-esperanto",
    "hubert": "facebook/hubert-large-ls960-ft",
}
STEP = 320  # samples between outputs: 50 Hz
RECEPTIVE_FIELD = 400  # samples that the convolutions of one output see
CHUNK_STEPS = 1000  # 20 s at a time: attention costs the square of the length
CONTEXT_STEPS = 100  # 2 s heard on either side of a chunk and thrown away
VARIANCE_OFFSET = 1e-7  # as in the networks' own input normalisation

Network = Callable[[Tensor], Tensor]  # samples [1, S] -> outputs [1, K, D], K = (S - 400) // 320 + 1


def speech_steps(
    samples: np.ndarray, steps: int, extractor: str, model: Path | str | None = None, device: str = "cpu"
) -> np.ndarray:
    """Outputs of the extractor's network at 50 Hz: samples [S] (16 kHz, [-1, 1]) -> float32 [steps, D].

    The sound is cut, or lengthened with silence, to `steps`. model: folder or hub name, default `DEFAULT_MODELS`.
    Raises DataError when transformers or the model is missing or the model has another width.
    """
    name = str(model or DEFAULT_MODELS[extractor])
    network, normalise = load_network(extractor, name, device)
    if normalise:
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + VARIANCE_OFFSET)
    outputs = run_in_chunks(samples, steps, network, device)
    width = get_extractor(extractor).width
    if outputs.shape[1] != width:
        raise DataError(f"{name}: gives {outputs.shape[1]} values a step, {extractor} needs {width}; give that model")
    return outputs


def load_network(extractor: str, name: str, device: str) -> tuple[Network, bool]:
    """The network as a function of samples, and whether its input must have zero mean and unit variance."""
    if importlib.util.find_spec("transformers") is None:
        raise InstagError(
            f"{extractor} features need the package transformers: pip install 'transformers>=4.40', "
            "or use the extractor phone-mel"
        )
    import transformers

    try:
        front_end = transformers.AutoFeatureExtractor.from_pretrained(name)
        if extractor == "hubert":
            module = transformers.AutoModel.from_pretrained(name)
        else:
            module = transformers.AutoModelForCTC.from_pretrained(name)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{name}: cannot load the {extractor} network ({reason}); give its folder or hub name"
        ) from None
    if front_end.sampling_rate != SAMPLE_RATE:
        raise DataError(f"{name}: hears {front_end.sampling_rate} Hz, {SAMPLE_RATE} needed; give another model")
    module = module.to(device).eval()

    def network(samples: Tensor) -> Tensor:
        output = module(samples)
        return output.last_hidden_state if extractor == "hubert" else output.logits

    return network, bool(front_end.do_normalize)


@torch.inference_mode()
def run_in_chunks(samples: np.ndarray, steps: int, network: Network, device: str) -> np.ndarray:
    """Outputs [steps, D] of a network over samples [S], silence beyond the end; memory flat in the length."""
    length = (steps - 1) * STEP + RECEPTIVE_FIELD
    padded = np.zeros(length, np.float32)
    padded[: min(len(samples), length)] = samples[:length]
    parts = []
    for start in range(0, steps, CHUNK_STEPS):
        stop = min(start + CHUNK_STEPS, steps)
        first, last = max(start - CONTEXT_STEPS, 0), min(stop + CONTEXT_STEPS, steps)
        heard = torch.from_numpy(padded[first * STEP : (last - 1) * STEP + RECEPTIVE_FIELD]).to(device)
        outputs = network(heard[None])[0]  # [last - first, D]
        parts.append(outputs[start - first : stop - first].float().cpu().numpy())
    return np.concatenate(parts)
