"""The paper's road: parallel recogniser, quantiser, text encoder; every encoder family, predictor and decoder."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    HubertConfig,
    ModernBertConfig,
    MoonshineConfig,
    MPNetConfig,
    ParakeetEncoderConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
    XLMRobertaConfig,
)

from modeling_clsr import CLSRConfig, CLSRModel, CLSRProcessor, SANMConfig
from modeling_clsr.recognizer_clsr import encode_speech

from .tiny_parts import (
    FAMILIES,
    MOONSHINE_SIZES,
    PARAKEET_SIZES,
    SIZES,
    WAVE_SIZES,
    WHISPER_SIZES,
    noise_clips,
    tiny_bert,
    tiny_parts,
)

ENCODERS = {
    "clsr_sanm": (SANMConfig(input_size=56, **SIZES), (30, 56)),
    "whisper": (WhisperConfig(**WHISPER_SIZES), (80, 60)),
    "wav2vec2": (Wav2Vec2Config(**WAVE_SIZES), (16000,)),
    "hubert": (HubertConfig(**WAVE_SIZES), (16000,)),
    "wavlm": (WavLMConfig(**WAVE_SIZES), (16000,)),
    "wav2vec2-bert": (Wav2Vec2BertConfig(feature_projection_input_dim=160, **SIZES), (30, 160)),
    "parakeet": (ParakeetEncoderConfig(**PARAKEET_SIZES), (160, 80)),
    "moonshine": (MoonshineConfig(**MOONSHINE_SIZES), (16000,)),
}
TEXTS = {
    "bert": BertConfig,
    "mpnet": MPNetConfig,
    "xlm-roberta": XLMRobertaConfig,
    "modernbert": ModernBertConfig,
}


def sanm_decoder(**fields) -> SANMConfig:
    return SANMConfig(encoder_hidden_size=32, **(SIZES | fields))


def parallel_model(speech=None, decoder="sanm", predictor="cif", adaptor="vq", seed=0, **fields) -> CLSRModel:
    torch.manual_seed(seed)
    text, tokenizer = tiny_bert()
    return CLSRModel.from_pretrained_parts(
        speech or ENCODERS["clsr_sanm"][0],
        text,
        text_tokenizer=tokenizer,
        decoder_type=decoder,
        decoder_config=sanm_decoder() if decoder == "sanm" else WhisperConfig(**WHISPER_SIZES, init_std=0.3),
        predictor_type=predictor,
        adaptor_type=adaptor,
        **({"adaptor_temperature": 0.1} | fields),
    )


def frames(batch=2, length=30, seed=0, width=56) -> torch.Tensor:
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


def transcripts(batch=2, length=6) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(40, 60, (batch, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[-1, length - 2 :] = 0
    return ids, mask


KINDS = [("sanm", "cif"), ("sanm", "ctc"), ("whisper", "cif"), ("whisper", "ctc")]


@torch.no_grad()
@pytest.mark.parametrize(("decoder", "predictor"), KINDS)
def test_vq_vector_is_exactly_the_text_encoders_vector_of_the_argmax_ids(decoder, predictor):
    model = parallel_model(decoder=decoder, predictor=predictor)
    output = model.get_audio_features(frames(1))
    ids = output.transcripts[0].token_ids
    assert ids
    before, behind = model.strings.frame()
    vector = model.get_text_features(torch.tensor([before + ids + behind])).pooler_output
    assert torch.equal(output.pooler_output, vector)


@pytest.mark.parametrize(("decoder", "predictor"), KINDS)
def test_contrastive_loss_alone_reaches_the_speech_encoder(decoder, predictor):
    model = parallel_model(decoder=decoder, predictor=predictor, adaptor_temperature=1.0).train()
    ids, mask = transcripts()
    model(input_ids=ids, attention_mask=mask, input_features=frames(), return_loss=True).loss.backward()
    weight = model.speech_model.encoder.layers[0].self_attn.qkv_proj.weight
    assert weight.grad is not None and weight.grad.abs().max() > 0


@pytest.mark.parametrize(("decoder", "predictor"), KINDS)
@pytest.mark.parametrize("adaptor", ["vq", "softmax", "logits", "expected", "projection"])
def test_all_losses_reach_every_weight(decoder, predictor, adaptor):
    model = parallel_model(decoder=decoder, predictor=predictor, adaptor=adaptor).train()
    ids, mask = transcripts()
    output = model(
        input_ids=ids,
        attention_mask=mask,
        input_features=frames(),
        transcript_ids=ids,
        transcript_mask=mask,
        return_loss=True,
    )
    assert torch.isfinite(output.loss)
    expected = (output.contrastive_loss + output.recognition_loss + output.predictor_loss) / 3
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert [
        name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
    ] == []


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_every_speech_encoder_serves_and_ignores_padding(name):
    config, shape = ENCODERS[name]
    model = parallel_model(config).eval()
    time = 1 if name == "whisper" else 0
    generator = torch.Generator().manual_seed(0)
    long, short = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    keep = shape[time] * 3 // 4 // 4 * 4
    short = short.narrow(time, 0, keep)
    padded = torch.cat([short, torch.zeros_like(long.narrow(time, 0, shape[time] - keep))], dim=time)
    mask = torch.ones(2, shape[time], dtype=torch.long)
    mask[1, keep:] = 0
    together = model.get_audio_features(torch.stack([long, padded]), mask)
    alone = model.get_audio_features(short[None], mask[1:, :keep])
    assert together.transcripts[1].token_ids == alone.transcripts[0].token_ids
    torch.testing.assert_close(together.pooler_output[1:], alone.pooler_output, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", TEXTS)
def test_every_text_encoder_serves_with_embeddings_for_ids(name):
    """Acceptance check 4 of the reference: word embeddings in, the same vector out as for the ids."""
    torch.manual_seed(0)
    _, tokenizer = tiny_bert()
    extra = {"pad_token_id": 0} if name == "modernbert" else {}
    config = TEXTS[name](vocab_size=len(tokenizer), **SIZES, **extra)
    model = CLSRModel.from_pretrained_parts(
        ENCODERS["clsr_sanm"][0],
        AutoModel.from_config(config).eval(),
        text_tokenizer=tokenizer,
        decoder_type="sanm",
        decoder_config=sanm_decoder(),
        predictor_type="cif",
        adaptor_type="vq",
    )
    output = model.get_audio_features(frames(1))
    before, behind = model.strings.frame()
    ids = torch.tensor([before + output.transcripts[0].token_ids + behind])
    torch.testing.assert_close(
        output.pooler_output, model.get_text_features(ids).pooler_output, atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_silence_is_an_empty_transcript_not_a_crash():
    model = parallel_model()
    model.speech_model.predictor.projection.bias.fill_(-50.0)  # no frame has any mass
    output = model.get_audio_features(frames(2))
    assert [transcript.text for transcript in output.transcripts] == ["", ""]
    assert torch.isfinite(output.pooler_output).all()


@torch.no_grad()
def test_restricted_vocabulary_writes_only_its_tokens():
    listed = [50, 41, 45, 60, 52]
    model = parallel_model(vocabulary_ids=listed)
    output = model.get_audio_features(frames(2))
    written = {token for transcript in output.transcripts for token in transcript.token_ids}
    assert written and written <= set(listed)
    assert output.recognition.logits.shape[-1] == len(listed)


@torch.no_grad()
def test_special_tokens_outside_a_restricted_vocabulary_ban_none_of_its_rows():
    """They once banned the last row, which -1 names."""
    model = parallel_model(vocabulary_ids=[50, 41, 45])
    model.speech_model.output_layer.weight.zero_()
    model.speech_model.output_layer.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    written = {
        token
        for transcript in model.get_audio_features(frames(2)).transcripts
        for token in transcript.token_ids
    }
    assert written == {45}


def test_transcript_outside_the_vocabulary_is_refused_by_row_and_token():
    model = parallel_model(vocabulary_ids=[50, 41, 45])
    with pytest.raises(
        ValueError, match="transcript 1 holds token 46 but vocabulary_ids lists only 3 tokens"
    ):
        model.get_audio_features(frames(2), transcript_ids=torch.tensor([[50, 41], [45, 46]]))


@pytest.mark.parametrize("tie", [False, True])
def test_output_can_be_tied_to_the_word_embeddings(tie):
    model = parallel_model(tie_output=tie)
    names = {name for name, _ in model.speech_model.named_parameters()}
    assert ("output_layer.weight" in names) is not tie
    ids, mask = transcripts()
    model.train()
    found = model.get_audio_features(frames(2), transcript_ids=ids, transcript_mask=mask).recognition
    assert found.logits.shape[-1] == model.config.text_config.vocab_size
    found.recognition_loss.backward()


@torch.no_grad()
def test_spoken_questions_take_the_road_of_the_clips():
    model = parallel_model()
    clips, questions = frames(2), frames(2, seed=5)
    output = model(input_features=clips, question_features=questions)
    assert torch.equal(output.text_embeds, model.get_audio_features(questions).pooler_output)
    same = model(input_features=clips, question_features=clips)
    torch.testing.assert_close(same.logits_per_text.diagonal() / same.logit_scale, torch.ones(2))


def test_labels_fix_the_number_of_tokens_and_the_length_is_predicted():
    model = parallel_model()
    ids, mask = transcripts()
    found = model.get_audio_features(frames(2), transcript_ids=ids, transcript_mask=mask).recognition
    assert found.token_mask.sum(dim=1).tolist() == [6, 4]
    assert found.token_counts.shape == (2,)


@torch.no_grad()
@pytest.mark.parametrize("passes", [0, 1, 3])
def test_whisper_decoder_writes_greedily_and_in_parallel(passes):
    model = parallel_model(decoder="whisper", draft_passes=passes)
    output = model.get_audio_features(frames(2))
    assert any(transcript.token_ids for transcript in output.transcripts)
    again = model.get_audio_features(frames(2))
    assert torch.equal(output.pooler_output, again.pooler_output)


@torch.no_grad()
def test_first_pass_of_the_whisper_decoder_sees_all_vectors_and_no_padding():
    inner = parallel_model(decoder="whisper").speech_model
    speech = inner.encode(frames(1), None)
    states = torch.randn(1, 5, inner.decoder.config.d_model, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(1, 5, dtype=torch.bool)
    found = inner._decode(states, mask, speech)
    changed = states.clone()
    changed[0, 4] *= -1
    assert (inner._decode(changed, mask, speech)[0, 0] - found[0, 0]).abs().max() > 1e-4  # looks ahead
    longer = torch.cat([states, torch.randn(1, 3, states.shape[-1])], dim=1)
    padded = inner._decode(longer, torch.arange(8)[None] < 5, speech)
    torch.testing.assert_close(padded[:, :5], found, atol=1e-5, rtol=0)
    assert padded[:, 5:].abs().max() == 0


@torch.no_grad()
def test_predictor_that_fires_at_every_frame_does_not_run_out_of_positions():
    model = parallel_model(decoder="whisper")
    model.speech_model.predictor.projection.bias.fill_(10.0)
    positions = model.config.decoder_config.max_target_positions
    found = model.get_audio_features(frames(1, length=positions + 20)).recognition
    assert found.token_counts[0] > positions and int(found.token_mask.sum()) == positions - 1


@pytest.mark.parametrize(("passes", "learns_the_end"), [(0, True), (1, False), (2, True)])
def test_whisper_decoder_learns_the_passes_that_it_will_run(passes, learns_the_end):
    """Token rows of the start and of the end belong to the causal passes; the predictor's vectors to the first."""
    model = parallel_model(decoder="whisper", draft_passes=passes).train()
    ids, mask = transcripts()
    found = model.get_audio_features(frames(), transcript_ids=ids, transcript_mask=mask).recognition
    found.recognition_loss.backward()
    inner = model.speech_model
    row = inner.decoder.embed_tokens.weight.grad[inner.start_row]
    assert (row.abs().max() > 0) == learns_the_end
    assert (inner.bridge[1].weight.grad is not None) == (passes > 0)


@torch.no_grad()
def test_parallel_passes_come_to_rest_at_the_greedy_words():
    """Enough passes over a draft of the right length write what the decoder writes token by token."""
    greedy = parallel_model(decoder="whisper", draft_passes=0)
    words = greedy.get_audio_features(frames(1)).transcripts[0].token_ids[:8]
    speech = greedy.speech_model.encode(frames(1), None)
    inner = greedy.speech_model
    draft, mask = torch.zeros(1, len(words), dtype=torch.long), torch.ones(1, len(words), dtype=torch.bool)
    _, logits, _ = inner._correct(draft, len(words), mask, speech)
    assert logits.argmax(dim=-1)[0].tolist() == words


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(dtype):
    model = parallel_model().to(dtype)
    output = model.get_audio_features(frames(2).to(dtype))
    assert torch.isfinite(output.pooler_output).all()


@torch.no_grad()
def test_eager_attention_equals_sdpa():
    model = parallel_model()
    expected = model.get_audio_features(frames(2)).pooler_output
    for part in (model.speech_model.encoder, model.speech_model.decoder):
        part.config._attn_implementation = "eager"
    torch.testing.assert_close(model.get_audio_features(frames(2)).pooler_output, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder_type": "sanm"}, "decoder_type is 'sanm' but adaptor_type is 'retokenize'"),
        ({"adaptor_type": "vq"}, "decoder_type is 'recognizer' but adaptor_type is 'vq'"),
        ({"predictor_type": "cif"}, "decoder_type is 'recognizer' but predictor_type is 'cif'"),
        ({"decoder_config": SANMConfig()}, "decoder_type is 'recognizer' but decoder_config is"),
        (
            {
                "decoder_type": "whisper",
                "adaptor_type": "vq",
                "predictor_type": "cif",
                "decoder_config": SANMConfig(),
            },
            "decoder_type is 'whisper' but decoder_config is of type 'clsr_sanm'",
        ),
        ({"vocabulary_ids": [1, 99999]}, "vocabulary_ids lists 99999 but the text encoder has 30522 tokens"),
        ({"vocabulary_ids": [1, 1]}, "vocabulary_ids lists 2 tokens but only 1 different"),
        ({"sampler_ratio": 1.0}, "sampler_ratio is 1.0 but must lie between 0 and 1"),
        ({"contrastive_weight": -0.5}, "a loss weight is -0.5 but must be 0 or more"),
        ({"tie_output": True}, "tie_output is True but decoder_type is 'recognizer'"),
        ({"draft_passes": -1}, "draft_passes is -1 but predictor_type is None"),
    ],
)
def test_config_refuses_parts_that_do_not_fit(fields, message):
    with pytest.raises(Exception, match=message):
        CLSRConfig(**fields)


@torch.no_grad()
@pytest.mark.parametrize(("decoder", "predictor"), KINDS)
def test_checkpoint_gives_the_same_after_loading(decoder, predictor, tmp_path):
    model = parallel_model(decoder=decoder, predictor=predictor, vocabulary_ids=list(range(40, 90)))
    if hasattr(model.speech_model, "cmvn_shift"):
        model.speech_model.cmvn_shift.fill_(0.25)
    model.save_pretrained(tmp_path)
    again, report = CLSRModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(
        again.get_audio_features(frames(2)).pooler_output, model.get_audio_features(frames(2)).pooler_output
    )
    assert (
        AutoConfig.from_pretrained(tmp_path).decoder_config.model_type
        == again.config.decoder_config.model_type
    )


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_of_every_recogniser_keeps_its_weights(family, tmp_path):
    parts = tiny_parts(family, tmp_path)
    model = CLSRModel.from_pretrained_parts(
        parts.speech,
        parts.text,
        text_tokenizer=parts.text_tokenizer,
        decoder_type="sanm",
        decoder_config=sanm_decoder(),
        predictor_type="cif",
        adaptor_type="vq",
    )
    batch = CLSRProcessor.from_pretrained_parts(
        parts.speech, parts.text, parts.text_tokenizer, parallel=True
    )(audio=noise_clips(0.9), sampling_rate=16000)
    own = model.speech_model.encode(batch["input_features"], batch["feature_attention_mask"]).states
    expected = encode_speech(
        parts.model().speech_model, batch["input_features"], batch["feature_attention_mask"]
    )
    torch.testing.assert_close(own, expected.states, atol=1e-6, rtol=0)


def test_whisper_rows_start_from_whispers_own_strings(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    model = CLSRModel.from_pretrained_parts(
        parts.speech,
        parts.text,
        parts.speech_tokenizer,
        parts.text_tokenizer,
        decoder_type="whisper",
        decoder_config=parts.speech.config.to_dict(),
        predictor_type="cif",
        adaptor_type="vq",
    )
    rows = model.speech_model.decoder.embed_tokens.weight
    own = parts.speech.model.decoder.embed_tokens.weight
    piece = parts.text_tokenizer.convert_tokens_to_ids("bee")
    ids = parts.speech_tokenizer.encode(" bee")
    torch.testing.assert_close(rows[piece], own[ids].mean(dim=0))
    inside = parts.text_tokenizer.convert_tokens_to_ids("##b")
    torch.testing.assert_close(rows[inside], own[parts.speech_tokenizer.encode("b")].mean(dim=0))
    layer = "layers.1.fc1.weight"
    assert torch.equal(
        model.speech_model.decoder.state_dict()[layer], parts.speech.model.decoder.state_dict()[layer]
    )
    heard = model.speech_model.bridge(7 * torch.randn(50, parts.speech.config.d_model))
    assert 0.3 < heard.norm(dim=-1).mean() / rows.norm(dim=-1).mean() < 3  # enter where rows do
    assert isinstance(model.text_model, BertModel)
