"""CLSR: from a folder of recordings to the moment that answers the question."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from .configuration_clsr import CLSRConfig, SANMConfig
from .feature_extraction_clsr import CLSRFeatureExtractor
from .modeling_clsr import CLSRAudioOutput, CLSRModel, CLSROutput
from .processing_clsr import CLSRProcessor
from .transcript_clsr import Transcript, Word

AutoConfig.register("clsr", CLSRConfig, exist_ok=True)
AutoModel.register(CLSRConfig, CLSRModel, exist_ok=True)
AutoFeatureExtractor.register(CLSRConfig, CLSRFeatureExtractor, exist_ok=True)
AutoProcessor.register(CLSRConfig, CLSRProcessor, exist_ok=True)

__all__ = [
    "CLSRAudioOutput",
    "CLSRConfig",
    "CLSRFeatureExtractor",
    "CLSRModel",
    "CLSROutput",
    "CLSRProcessor",
    "SANMConfig",
    "Transcript",
    "Word",
]
