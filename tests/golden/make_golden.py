"""Write the golden tensors: what FunASR and kaldi-native-fbank make of random weights and a made-up sound.

    pip install funasr kaldi-native-fbank    # beside torch and safetensors
    python tests/golden/make_golden.py

The tensors change only in a commit that says why.
"""

import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
SEED = 20251112
PACKAGES = ("torch", "funasr", "kaldi-native-fbank")

# FunASR imports these on its way to the classes used here, which need none of them.
for package, modules in {
    "librosa": ["librosa"],
    "torchaudio": ["torchaudio", "torchaudio.compliance", "torchaudio.compliance.kaldi"],
}.items():
    if importlib.util.find_spec(package) is None:
        sys.modules.update({module: types.ModuleType(module) for module in modules})

from funasr.frontends.wav_frontend import apply_cmvn, apply_lfr, load_cmvn  # noqa: E402
from funasr.models.paraformer.cif_predictor import CifPredictorV2  # noqa: E402
from funasr.models.paraformer.decoder import ParaformerSANMDecoder  # noqa: E402
from funasr.models.sanm.encoder import SANMEncoder  # noqa: E402


def make_sanm() -> dict[str, torch.Tensor]:
    """Return weights, inputs and outputs of a tiny recogniser on two clips of different length."""
    torch.manual_seed(SEED)
    encoder = SANMEncoder(
        input_size=28, output_size=16, attention_heads=2, linear_units=32, num_blocks=3, input_layer="pe"
    ).eval()
    predictor = CifPredictorV2(idim=16, l_order=1, r_order=1, tail_threshold=0.45).eval()
    decoder = ParaformerSANMDecoder(
        vocab_size=24,
        encoder_output_size=16,
        attention_heads=2,
        linear_units=32,
        num_blocks=2,
        att_layer_num=2,
        kernel_size=11,
    ).eval()
    parts = {"encoder": encoder, "predictor": predictor, "decoder": decoder}
    with torch.no_grad():
        for part in parts.values():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)  # norms and biases away from one and zero
        predictor.cif_output.bias.fill_(-1.0)  # about one token in four frames
        lengths = torch.tensor([37, 23])
        features = torch.randn(2, 37, 28)
        states, _, _ = encoder(features, lengths)
        mask = (torch.arange(37) < lengths[:, None]).float()[:, None]  # (B, 1, F)
        states = states * mask.transpose(1, 2)  # else FunASR's convolution would see the padding
        tokens, counts, weights, _ = predictor(states, mask=mask)
        targets = torch.tensor([11, 7])
        scaled_tokens, sums, _, _ = predictor(states, mask=mask, target_label_length=targets[:, None])
        logits, _ = decoder(states, lengths, tokens, counts.long())
    tensors = {
        f"weights.{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    return tensors | {
        "features": features,
        "lengths": lengths,
        "encoder_states": states,
        "token_states": tokens,
        "num_tokens": counts.long(),
        "weights_with_tail": weights,
        "target_lengths": targets,
        "target_token_states": scaled_tokens[:, : int(targets.max())],
        "token_counts": sums,
        "logits": logits,
    }


def make_kaldi(folder: Path) -> dict[str, torch.Tensor]:
    """Return a sound and its filterbank, stacked frames, and normalised stacked frames."""
    rng = np.random.default_rng(SEED)
    seconds = np.arange(8123) / 16000
    sweep = np.sin(2 * np.pi * (150 + 3000 * seconds) * seconds) * np.linspace(0, 0.6, len(seconds))
    waveform = (sweep + 0.01 * rng.standard_normal(len(seconds)) + 0.02).astype(np.float32)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hamming"
    options.mel_opts.num_bins = 80
    options.energy_floor = 0
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, (waveform * 32768).tolist())
    fbank.input_finished()
    features = torch.from_numpy(np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)]))
    stacked = apply_lfr(features, 7, 6)
    statistics = {"AddShift": rng.normal(-10, 2, 560), "Rescale": rng.uniform(0.1, 0.3, 560)}
    lines = ["<Nnet>"]
    for tag, values in statistics.items():
        lines += [
            f"<{tag}> 560 560",
            "<LearnRateCoef> 0 [ " + " ".join(f"{value:.6f}" for value in values) + " ]",
        ]
    path = folder / "am.mvn"
    path.write_text("\n".join([*lines, "</Nnet>", ""]), encoding="utf-8")
    return {
        "waveform": torch.from_numpy(waveform),
        "fbank": features,
        "stacked": stacked.clone(),
        "normalized": apply_cmvn(stacked.clone(), load_cmvn(path)),
    }


def save(name: str, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the tensors and, beside them, how they were made."""
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    (folder / f"{name}.safetensors").chmod(0o644)
    made = {
        "seed": SEED,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "command": "python tests/golden/make_golden.py",
    }
    (folder / f"{name}.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    save("sanm", make_sanm(), target)
    save("kaldi", make_kaldi(target), target)
