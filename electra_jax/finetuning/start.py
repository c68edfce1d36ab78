"""Where fine-tuning starts: the weights below the head, and their tokenizer."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from electra_jax.config import ElectraConfig
from electra_jax.data.tokenizer import fitting, load_tokenizer
from electra_jax.hub.folders import read_body
from electra_jax.hub.source import local_folder
from electra_jax.train.models import discriminator_embeddings
from electra_jax.train.optimizer import Params
from electra_jax.train.run import TOKENIZER, is_run, read_model, restore_params


def load_start(name_or_folder: str) -> tuple[ElectraConfig, Params, PreTrainedTokenizerFast]:
    """Configuration, parameters ("embeddings" and "encoder") and tokenizer of a pretrained model.

    It is any ELECTRA folder of transformers, with whatever head; or a run's folder, whose newest discriminator it is;
    or a model on the hub. Raises UserError for anything else, and for a tokenizer with more entries than the model.
    """
    run = Path(name_or_folder)
    if is_run(run):
        config, (_, params) = read_model(run).tower("discriminator"), restore_params(run)
        body = {"embeddings": discriminator_embeddings(params), "encoder": params["discriminator"]["encoder"]}
        tokenizer = load_tokenizer(run / TOKENIZER)
    else:
        folder = local_folder(name_or_folder)
        config, body = read_body(folder)
        tokenizer = load_tokenizer(folder)
    return config, body, fitting(tokenizer, config.vocab_size, name_or_folder)
