"""The tiny project of the tests: a random two-layer Llama, three small tasks, and a suite that names them."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

COLOURS = {
    "red": ["blood", "rose", "brick", "ruby"],
    "blue": ["sky", "sea", "ink", "jeans"],
    "green": ["leaf", "moss"],
}
PEOPLE = [
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gus",
    "Hal",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Nia",
    "Oli",
]
VERBS = ["likes", "sees", "draws", "wants", "buys"]


def rows() -> list[dict[str, str]]:
    """Sentences with a colour that follows from the thing named: learnable by a tiny model."""
    made = []
    for colour, things in COLOURS.items():
        for thing in things:
            for person in PEOPLE:
                for verb in VERBS:
                    made.append({"text": f"{person} {verb} the {thing}", "colour": colour})
    random.Random(0).shuffle(made)
    return made


def make_model(folder: Path) -> None:
    """Write a random Llama (2 layers, 64 wide) with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    words.decoder = decoders.ByteLevel()
    texts = [f"Text: {row['text']}\nColour: {row['colour']}" for row in rows()]
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def opens_texts(tokenizer: Any) -> None:
    """Let a tokenizer put its beginning-of-text token before every text, as Llama's and Gemma's do."""
    from tokenizers.processors import TemplateProcessing

    start, number = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, number)]
    )


TASK = """\
task: colours
custom_dataset: !function harness.data.splits.documents
dataset_kwargs: {{source: "file:colours.csv", label: colour, unique: [text], test: 30, validation: 30}}
training_split: train
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "Text: {{{{text}}}}\\nColour:"
doc_to_choice: [blue, green, red]
doc_to_target: colour
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""

PROSE = """\
task: prose
dataset_path: csv
dataset_kwargs: {data_files: {test: prose.csv}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""

NAMES = """\
task: names
custom_dataset: !function harness.data.splits.documents
dataset_kwargs: {source: "file:colours.csv", label: colour, unique: [text], test: 30, validation: 30}
training_split: train
validation_split: validation
test_split: test
output_type: generate_until
doc_to_text: "Text: {{text}}\\nColour:"
doc_to_target: colour
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""

SUITE = """\
version: 1
question: Which colours?
models: [tiny]
tasks:
  - {learn: colours, sizes: [8, 16]}
retain: [prose]
methods:
  base: {}
  full: {learning_rate: 1e-2}
  lora: {}
seeds: [0]
train: {steps: 2, batch_size: 4}
"""


def make_project(root: Path, model: Path) -> None:
    """Write `suites/` with the model, the tasks and the suite `small`."""
    tasks = root / "suites" / "tasks"
    tasks.mkdir(parents=True)
    (root / "suites" / "models.yaml").write_text(
        f"tiny:\n  kind: causal\n  source: 'file:{model}'\n  parameters: 30000\n"
    )
    write_csv(tasks / "colours.csv", rows())
    write_csv(tasks / "prose.csv", [{"text": f"{row['text']} and then {row['text']}"} for row in rows()[:6]])
    (tasks / "colours.yaml").write_text(TASK.replace("{{", "{").replace("}}", "}"))
    (tasks / "prose.yaml").write_text(PROSE)
    (tasks / "names.yaml").write_text(NAMES)
    (root / "suites" / "small.yaml").write_text(SUITE)


def write_csv(path: Path, records: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def make_encoder(folder: Path) -> None:
    """Write a random sentence encoder (a BERT of one layer, 32 wide, mean pooling) that knows the words of `rows`."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word for row in rows() for word in row["text"].split()} | {"Text", "Colour", ":"})
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*marks, *words])}, "[UNK]"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=known, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder / "body")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"))
    encoder = SentenceTransformer(modules=[body, Pooling(32)], device="cpu")
    encoder.save(str(folder / "encoder"), create_model_card=False)


def name_encoder(root: Path, folder: Path) -> None:
    """Let a project name that encoder `tiny-encoder`."""
    with (root / "suites" / "models.yaml").open("a") as file:
        file.write(f"tiny-encoder:\n  kind: encoder\n  source: 'file:{folder / 'encoder'}'\n  parameters: 9000\n")


STORY = """\
task: story
custom_dataset: !function harness.data.splits.running_text
dataset_kwargs: {texts: [{source: "file:story.csv", column: text}], words: 4, test: 2}
training_split: train
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""


def write_story(project: Path, texts: int = 12) -> Path:
    folder = project / "suites" / "tasks"
    rows = [{"text": " ".join(f"w{text}x{word}" for word in range(11))} for text in range(texts)]
    write_csv(folder / "story.csv", rows)
    (folder / "story.yaml").write_text(STORY)
    return folder / "story.yaml"
