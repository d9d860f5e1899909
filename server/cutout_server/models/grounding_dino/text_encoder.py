"""The companion of official checkpoints: the folder of their text encoder's tokenizer and config."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertConfig

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.pretrained import folder_of, load_processor
from cutout_server.models.tokens import check_tokenizer
from cutout_server.types import ModelFiles


def text_encoder(files: ModelFiles) -> tuple[Any, BertConfig]:
    """The tokenizer and the config of BERT; its weights are in the checkpoint.

    Raises:
        FailedPreconditionError: The folder is missing, damaged or of another kind of model.
    """
    folder = files.companions.get("text_encoder")
    if folder is None:
        raise FailedPreconditionError(
            f"companions lack text_encoder, which checkpoint {files.checkpoint} needs: name a folder with "
            "bert-base-uncased's config.json, vocab.txt and tokenizer.json"
        )
    folder = folder_of(ModelFiles(Path(folder)), ["bert"])
    tokenizer = load_processor(AutoTokenizer, folder)
    config: BertConfig = load_processor(BertConfig, folder)
    check_tokenizer(tokenizer, config.vocab_size)
    return tokenizer, config
