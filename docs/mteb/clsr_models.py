"""CLSR in mteb: the file of the pull request, mteb/models/model_implementations/clsr_models.py.

Until it is there: `mteb.evaluate(modeling_clsr.integrations.mteb.load(FOLDER), tasks)`.
"""

from mteb.models import ModelMeta
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

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
