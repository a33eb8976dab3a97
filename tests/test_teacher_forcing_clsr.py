"""The pretrained recogniser beside true transcripts."""

import pytest
import torch

from modeling_clsr.decoding_clsr import greedy_decode
from modeling_clsr.recognizer_clsr import encode_speech
from modeling_clsr.teacher_forcing_clsr import score_tokens, teach_recognizer
from tests.tiny_parts import noise_clips, tiny_parts


def heard(family, folder, **config):
    parts = tiny_parts(family, folder)
    model, processor = parts.model(**config), parts.processor()
    batch = processor(audio=noise_clips(1.0, 0.7), sampling_rate=16000)
    speech = encode_speech(model.speech_model, batch["input_features"], batch["feature_attention_mask"])
    return model, batch, speech


@pytest.mark.parametrize("family", ["whisper", "moonshine"])
def test_draft_beside_its_own_greedy_transcript_is_that_transcript(family, tmp_path):
    model, _, speech = heard(family, tmp_path)
    greedy = [result for result in greedy_decode(model.speech_model, speech, model.config)]
    length = min(len(result.token_ids) for result in greedy)
    assert length > 3
    ids = torch.tensor([result.token_ids[:length] for result in greedy])
    drafts, logits, _ = teach_recognizer(model.speech_model, speech, ids, None, model.config)
    assert [draft.token_ids for draft in drafts] == ids.tolist()
    assert torch.allclose(
        logits[:, :-1], score_tokens(model.speech_model, speech, drafts, model.config), atol=1e-5
    )
    for draft, result in zip(drafts, greedy, strict=True):
        assert draft.log_probs == pytest.approx(result.log_probs[:length], abs=1e-4)


def test_recognition_loss_is_the_cross_entropy_of_tokens_and_end(tmp_path):
    model, _, speech = heard("whisper", tmp_path, label_smoothing=0.0)
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    _, _, loss = teach_recognizer(model.speech_model, speech, ids, mask, model.config)
    total, prompt = 0.0, list(model.config.decoder_prompt_ids)
    for row, tokens in enumerate([[5, 6, 7], [8, 9]]):
        alone = speech.rows(torch.tensor([row]))
        inputs = torch.tensor([prompt + tokens])
        hidden = model.speech_model.model.decoder(inputs, alone.states, alone.mask).last_hidden_state
        scores = model.speech_model.proj_out(hidden)[0, len(prompt) - 1 :].log_softmax(dim=-1)
        targets = torch.tensor([*tokens, model.config.eos_token_id])
        total -= scores.gather(1, targets[:, None]).sum().item()
    assert loss.item() == pytest.approx(total / 7, rel=1e-5)


@pytest.mark.parametrize("family", ["whisper", "parakeet"])
def test_recogniser_learns_from_both_losses_in_one_pass(family, tmp_path):
    model, batch, _ = heard(family, tmp_path)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    questions = tiny_parts(family, tmp_path).processor()(text=["a b", "c d"])
    output = model(**batch, **questions, transcript_ids=ids, return_loss=True)
    expected = (
        model.config.contrastive_weight * output.contrastive_loss
        + model.config.recognition_weight * output.recognition_loss
    )
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    output.contrastive_loss.backward()
    grads = [weight.grad for weight in model.speech_model.parameters() if weight.grad is not None]
    assert grads and max(grad.abs().max() for grad in grads) > 0


def test_cached_states_give_the_values_of_the_features(tmp_path):
    for family in ("whisper", "parakeet"):
        model, batch, speech = heard(family, tmp_path, redecode_padded=False)
        with torch.no_grad():
            fresh = model.get_audio_features(**batch)
            cached = model.get_audio_features(speech_states=speech.states, speech_mask=speech.mask)
        assert [t.text for t in cached.transcripts] == [t.text for t in fresh.transcripts]
        assert torch.equal(cached.pooler_output, fresh.pooler_output)


def test_recogniser_alone_needs_no_questions_and_makes_no_vectors(tmp_path):
    model, batch, _ = heard("whisper", tmp_path)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    output = model(**batch, transcript_ids=ids, return_loss=True, return_embeds=False)
    assert output.audio_embeds is None
    assert output.loss.item() == pytest.approx(
        model.config.recognition_weight * output.recognition_loss.item()
    )


def test_tokens_of_another_vocabulary_are_refused(tmp_path):
    model, batch, _ = heard("whisper", tmp_path)
    size = model.speech_model.config.vocab_size
    with pytest.raises(ValueError, match=f"token {size + 3} but the recogniser has {size}"):
        model.get_audio_features(**batch, transcript_ids=torch.tensor([[size + 3], [1]]))


def test_features_and_states_together_are_refused(tmp_path):
    model, batch, speech = heard("whisper", tmp_path)
    with pytest.raises(ValueError, match="both given but one is needed"):
        model.get_audio_features(**batch, speech_states=speech.states)
    with pytest.raises(ValueError, match="neither given but one is needed"):
        model.get_audio_features()
