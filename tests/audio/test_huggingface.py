"""Speech networks: chunks, lengths, loading. A tiny made model stands for the published ones."""

import importlib.util

import numpy as np
import pytest
import torch

from instag.audio import huggingface as hf
from instag.audio.features import extract
from instag.errors import DataError, InstagError

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the optional package transformers is not installed"
)


def local_network(samples: torch.Tensor) -> torch.Tensor:
    """Outputs that hear 400 samples and two steps to either side, as [1, K, 2]."""
    windows = samples.unfold(1, hf.RECEPTIVE_FIELD, hf.STEP)  # [1, K, 400]
    values = torch.stack([windows.mean(-1), windows[..., 7]], dim=-1)
    padded = torch.nn.functional.pad(values, (0, 0, 2, 2))
    return sum(padded[:, k : k + values.shape[1]] for k in range(5))


def test_chunks_join_without_a_seam(monkeypatch):
    samples = np.random.default_rng(0).standard_normal(100 * hf.STEP).astype(np.float32)
    whole = hf.run_in_chunks(samples, 100, local_network, "cpu")
    monkeypatch.setattr(hf, "CHUNK_STEPS", 17)
    monkeypatch.setattr(hf, "CONTEXT_STEPS", 4)
    np.testing.assert_allclose(hf.run_in_chunks(samples, 100, local_network, "cpu"), whole, atol=1e-6)
    monkeypatch.setattr(hf, "CONTEXT_STEPS", 0)
    assert not np.allclose(hf.run_in_chunks(samples, 100, local_network, "cpu"), whole)


def test_step_k_stands_at_sample_320_k():
    samples = np.zeros(50 * hf.STEP, np.float32)
    samples[20 * hf.STEP + 7] = 1
    outputs = hf.run_in_chunks(samples, 50, lambda x: x.unfold(1, 400, 320)[..., 7:8], "cpu")
    assert outputs.shape == (50, 1) and outputs[:, 0].nonzero()[0].tolist() == [20]


@pytest.mark.parametrize("steps", [2, 40, 60])
def test_the_sound_is_cut_or_lengthened_to_the_steps(steps):
    assert hf.run_in_chunks(np.ones(50 * hf.STEP, np.float32), steps, local_network, "cpu").shape == (steps, 2)


def test_extract_with_a_network(monkeypatch):
    wide = torch.linspace(0, 1, 1024)
    seen = {}

    def load(extractor, name, device):
        seen.update(extractor=extractor, name=name)
        return (lambda x: x.unfold(1, 400, 320).std(-1, keepdim=True) * wide), True

    monkeypatch.setattr(hf, "load_network", load)
    sound = 0.05 * np.random.default_rng(0).standard_normal(32_000)
    features, norm = extract(sound, "hubert")
    assert features.shape == (50, 2, 1024) and norm.mode == "file"
    assert seen == {"extractor": "hubert", "name": "facebook/hubert-large-ls960-ft"}
    np.testing.assert_allclose(features[..., -1], 1, atol=0.2)  # the input was brought to unit variance
    with pytest.raises(DataError, match="1024 values a step, esperanto needs 44"):
        extract(sound, "esperanto")
    with pytest.raises(DataError, match="only the normalisation 'file'"):
        extract(sound, "hubert", "running")


def test_without_transformers_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(hf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InstagError, match="pip install 'transformers"):
        extract(np.zeros(16_000), "hubert")


@needs_transformers
@pytest.mark.parametrize(("extractor", "width"), [("hubert", 1024), ("esperanto", 44)])
def test_a_tiny_made_model(extractor, width, tmp_path):
    import transformers as tr

    small = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": (8,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    }
    torch.manual_seed(0)
    if extractor == "hubert":
        network = tr.HubertModel(tr.HubertConfig(hidden_size=width, **small))
    else:
        network = tr.Wav2Vec2ForCTC(tr.Wav2Vec2Config(hidden_size=32, vocab_size=width, **small))
    network.save_pretrained(tmp_path)
    tr.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    sound = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    features, _ = extract(sound, extractor, model=tmp_path)
    assert features.shape[0] == 25 and features.shape[2] == width
    with pytest.raises(DataError, match="nowhere"):
        extract(sound, extractor, model=tmp_path / "nowhere")
