"""CLSR in mteb: the metadata by which it loads a checkpoint.

The same file stands in `docs/mteb` as it would in mteb's own repository.
"""

from pathlib import Path

try:
    from mteb.models import ModelMeta
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
except ImportError as error:
    raise ImportError(
        'the mteb metadata needs mteb, which is not installed; install the extra "mteb" of this package'
    ) from error


def load(folder: str | Path, device: str | None = None) -> SentenceTransformerEncoderWrapper:
    """Load a checkpoint folder for `mteb.evaluate`, which cannot tell by itself that a local folder takes audio.

    Args:
        folder: of the checkpoint.
        device: "cuda" or "cpu".
    """
    model = SentenceTransformerEncoderWrapper(str(folder), device=device, **clsr_base_en.loader_kwargs)
    model.mteb_model_meta = clsr_base_en.model_copy(update={"revision": "local"})
    return model


clsr_base_en = ModelMeta(
    loader=SentenceTransformerEncoderWrapper,
    loader_kwargs={"trust_remote_code": True},
    name="clsr/clsr-base-en",
    revision="main",
    release_date=None,
    languages=["eng-Latn"],
    modalities=["text", "audio"],
    n_parameters=95_200_000,
    memory_usage_mb=363,
    max_tokens=256,
    embed_dim=384,
    license="apache-2.0",
    open_weights=True,
    public_training_code=None,
    public_training_data=None,
    framework=["Sentence Transformers", "PyTorch"],
    reference="https://arxiv.org/abs/2511.09282",
    similarity_fn_name="cosine",  # type: ignore[arg-type]
    use_instructions=False,
    training_datasets=None,
)
