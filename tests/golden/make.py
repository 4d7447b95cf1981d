"""Regenerate the tiny random checkpoints beside this file and their outputs in golden.json.

Needs packages that the project itself does not: pip install torch==2.13.0 transformers sentence-transformers
Then: python tests/golden/make.py
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import (  # type: ignore[import-not-found,unused-ignore]
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

FOLDER = Path(__file__).parent
TEXTS = ["the cat sat on the warm mat .", "a dull film"]
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "warm",
    "mat",
    "a",
    "dull",
    "film",
    ".",
    ",",
    "good",
    "bad",
    "is",
    "was",
    "not",
    "very",
]
POSITIONS = 24

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
    "vocab_size": 100,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One tiny checkpoint: a transformers class and its configuration, and the extras of sentence-transformers."""

    name: str
    model_class: Any
    config: Any
    tokenizer: Tokenizer
    dtype: torch.dtype = torch.float16
    pooling: dict[str, Any] | None = None
    normalize: bool = False


def wordpiece() -> Tokenizer:
    """A WordPiece tokenizer as BERT's, with padding and truncation stored as sentence-transformers does."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *[f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"],
    ]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:5])
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(8)
    return tokenizer


def byte_pairs() -> Tokenizer:
    """A byte-pair tokenizer as RoBERTa's; its vocabulary is cut to fit 100 rows, so the alphabet is not all bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    trainer = BpeTrainer(
        vocab_size=100, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def recipes() -> list[Recipe]:
    """The six checkpoints; between them every family, head, pooling, activation and dtype."""
    bert, roberta = wordpiece(), byte_pairs()
    roberta_sizes = SIZES | {"pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    distil_sizes = {
        "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 100,
        "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    legacy_mean = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    current_cls = {"embedding_dimension": 32, "pooling_mode": "cls"}
    labels = {0: "bad", 1: "good", 2: "so-so"}
    return [
        Recipe("bert-embedding", BertModel, BertConfig(**SIZES), bert, torch.float32, legacy_mean, normalize=True),
        Recipe(
            "bert-sequence", BertForSequenceClassification,
            BertConfig(**SIZES, id2label=labels, hidden_act="gelu_new"), bert,
        ),
        Recipe("bert-token", BertForTokenClassification, BertConfig(**SIZES, id2label=labels, hidden_act="relu"), bert),
        Recipe("distilbert-sequence", DistilBertForSequenceClassification, DistilBertConfig(**distil_sizes), bert),
        Recipe("roberta-sequence", RobertaForSequenceClassification, RobertaConfig(**roberta_sizes), roberta),
        Recipe("roberta-embedding", RobertaModel, RobertaConfig(**roberta_sizes), roberta, torch.bfloat16, current_cls),
    ]  # fmt: skip


def randomise(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give every parameter a size that matters to the output, biases and norms too, and round it to dtype."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_((centre + 0.25 * torch.randn_like(parameter)).to(dtype).to(torch.float32))


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_checkpoint(recipe: Recipe, model: PreTrainedModel, folder: Path) -> None:
    """Save as transformers does, and beside it what sentence-transformers adds."""
    model.to(recipe.dtype).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    recipe.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    is_roberta = recipe.config.model_type == "roberta"
    names = ("<pad>", "<s>", "</s>", "<unk>") if is_roberta else ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    tokens = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), names, strict=True))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 20, **tokens},
    )
    if recipe.pooling is None:
        return
    write_json(folder / "1_Pooling" / "config.json", recipe.pooling)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] * recipe.normalize)]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)


def outputs(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Token ids of both texts in one padded batch, with the outputs of the saved checkpoint in float32."""
    model = recipe.model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_str(recipe.tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.enable_padding(pad_id=recipe.config.pad_token_id)
    rows = tokenizer.encode_batch(TEXTS)
    ids = torch.tensor([row.ids for row in rows])
    mask = torch.tensor([row.attention_mask for row in rows])
    types = torch.zeros_like(ids)
    if recipe.name == "bert-sequence":
        types[0, 5:] = 1
    arguments = {"input_ids": ids, "attention_mask": mask, "output_hidden_states": True}
    if recipe.config.model_type != "distilbert":
        arguments["token_type_ids"] = types
    with torch.no_grad():
        result = model(**arguments)
    if recipe.pooling is None:
        output = result.logits
    else:
        sentences = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        output = sentences.encode(TEXTS, convert_to_tensor=True)
    return {
        "texts": TEXTS,
        "input_ids": ids.tolist(),
        "token_type_ids": types.tolist(),
        "attention_mask": mask.tolist(),
        "hidden_states": result.hidden_states[-1].tolist(),
        "output": output.tolist(),
    }


def main() -> None:
    golden = {}
    for seed, recipe in enumerate(recipes()):
        torch.manual_seed(seed)
        model = recipe.model_class(recipe.config)
        randomise(model, recipe.dtype)
        folder = FOLDER / recipe.name
        write_checkpoint(recipe, model, folder)
        golden[recipe.name] = outputs(recipe, folder)
    (FOLDER / "golden.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
