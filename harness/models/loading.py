"""Makes base models and tokenizers ready once (`prepare`), and loads them in workers (`load_model`).

A GGUF file is de-quantised once into safetensors, which then load in about a second.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.architecture import Structure, describe, model_mistake, read_config
from harness.data import Catalog, ModelEntry, ModelFacts, keep_facts, keep_structure, sources
from harness.errors import SourceError, Unavailable
from harness.records import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig, Cache, PreTrainedTokenizerBase
    from transformers.modeling_outputs import CausalLMOutputWithPast

TRUSTED = "trusted-code-"  # how the names of folders begin that hold a model whose own code may run
Progress = Callable[[str, int, int], None]


def prepare(catalog: Catalog, name: str, progress: Progress | None = None, revision: str = "") -> ModelFacts:
    """Fetch the model that the catalog has under `name`, make its folder ready for `from_pretrained`, and return its
    facts, which are cached. `progress` is called with (what is fetched, bytes done, bytes in all or 0 if unknown).

    An `hf:` source that names no commit is fetched at `revision`, a commit; without one, at the commit that its branch
    is at now. The facts keep it.

    Raises SourceError when it cannot be had or is no model folder.
    """
    facts = catalog.model_facts(name)
    if facts:
        return facts
    entry = catalog.model(name)
    paths = []
    for place, text in enumerate(entry.sources):
        source = sources.parse(text, sha256=entry.sha256[place] if place < len(entry.sha256) else "")
        if revision and source.kind == "hf":
            source = sources.at_revision(source, revision)
        paths.append(sources.fetch(source, base=catalog.root, progress=progress))
    folder = dequantise(entry, paths) if is_gguf(paths) else paths[0]
    if not (folder / "config.json").exists():
        raise SourceError(f"{name}: {model_mistake(folder)}")
    if entry.trust_remote_code:
        folder = with_code(folder)
    facts = ModelFacts(name, weights_fingerprint(folder, entry.trust_remote_code), str(folder))
    keep_facts(catalog.model_facts_path(name), facts)
    return catalog.model_facts(name) or facts


def keep_model_structure(name: str, facts: ModelFacts) -> None:
    """Read the structure of the fetched model `name` off a copy of it without weights, and cache it. Raises SourceError
    with a sentence where transformers has no causal language model of its kind."""
    folder = Path(facts.folder)
    if mistake := model_mistake(folder, runs_code(folder)):
        raise SourceError(f"{name}: {mistake}")
    keep_structure(folder, structure_of(name, folder))


def with_code(folder: Path) -> Path:
    """Return a folder of the cache with the files of a model whose own code may run, as links. Nothing but tunebench
    makes such a folder, so that no model can say by itself that it is trusted."""
    fingerprint = weights_fingerprint(folder, code=True)
    trusted = sources.cache_root() / "models" / f"{TRUSTED}{fingerprint[:32]}"
    if trusted.exists():
        return trusted
    trusted.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=trusted.parent, prefix=".trusted-"))
    for path in sorted(folder.iterdir()):
        (temporary / path.name).symlink_to(path.resolve())
    try:
        temporary.rename(trusted)
    except OSError:  # another process was faster
        shutil.rmtree(temporary, ignore_errors=True)
    return trusted


def runs_code(folder: Path) -> bool:
    """Return whether the code that comes with the model in a folder may run: where a suite or the list of models says
    so by the model's name, its folder is one that `with_code` made."""
    return folder.parent == sources.cache_root() / "models" and folder.name.startswith(TRUSTED)


def structure_of(name: str, folder: Path) -> Structure:
    """Return the structure of the model in a folder, from its configuration alone: the model is made without weights
    (on torch's meta device), which takes a second at any size. Raises SourceError where it cannot be made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        trusted = runs_code(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trusted)
        return describe(model)
    except Exception as error:  # whatever a family's own code, or a strange configuration, raises
        kind = read_config(folder).get("model_type")
        raise SourceError(
            f"{name}: transformers makes no causal language model of it (model_type {kind!r}): {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text, with one full stop; the name of its class where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.: ')[:300]}."


def is_gguf(paths: list[Path]) -> bool:
    """Return whether a model's files are one GGUF file, in one or several parts."""
    return paths[0].is_file() and (".gguf" in paths[0].name)


def dequantise(entry: ModelEntry, parts: list[Path]) -> Path:
    """Convert a GGUF file (in one or several `parts`, in order) into a cached folder of fp32 safetensors with
    tokenizer; return the folder."""
    from filelock import FileLock

    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    folder = sources.cache_root() / "models" / f"{entry.name}-{digest.hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            return folder
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".dequantise-"))
        try:
            whole = temporary / "model.gguf"
            with whole.open("wb") as file:
                for part in parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, file, 1 << 22)
            tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=whole.name)
            model = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=whole.name, dtype=torch.float32)
            # The weights are plain fp32 now; with the quantiser's marks left on, saving is refused.
            for mark in ("quantization_config",):
                if hasattr(model.config, mark):
                    delattr(model.config, mark)
            model.hf_quantizer = None
            model.is_quantized = False
            whole.unlink()
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def weights_fingerprint(folder: Path, code: bool = False) -> str:
    """Return the SHA-256 (64 hex digits) of the files that decide what a model computes: weights, configuration,
    tokenizer; with `code` also the Python files that come with it, which then run."""
    digest = hashlib.sha256()
    kinds = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja", *((".py",) if code else ()))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in kinds:
            if path.name == "source.json":
                continue
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


# --- in the worker ---


def resolve_precision(wanted: str) -> str:
    """Return the precision to train in, fp32, bf16 or fp16; `auto` is fp32 on a CPU, whatever the checkpoint says, and
    bf16 (else fp16) on a GPU.

    Raises Unavailable for a precision that the device does not support.
    """
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "auto":
        return "fp32" if not cuda else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if reason := TrainSettings.model_validate({"precision": wanted}).unavailable(cuda):
        raise Unavailable(reason)
    return wanted


def load_model(folder: Path, settings: TrainSettings, quantize: str | None = None) -> nn.Module:
    """Load a causal model from its `folder` onto this process's device, with the precision and attention kernel of
    `settings`; with `quantize` (nf4, fp4 or int8), its weights packed.

    Unpacked weights are fp32, also for bf16 and fp16, which then are autocast: updates of a small learning rate would
    be lost in bf16 weights. A quantised base computes in the chosen precision. Raises Unavailable where this machine
    lacks what is asked for, and ValueError for a folder in which weights are missing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    precision = resolve_precision(settings.precision)
    if reason := settings.for_scoring.unavailable(torch.cuda.is_available()):
        raise Unavailable(reason)
    options: dict[str, Any] = {"dtype": torch.float32}
    if settings.attention != "auto":  # else transformers decides
        options["attn_implementation"] = settings.attention
    if quantize:
        options["quantization_config"] = quantization(quantize, compute_dtype(precision))
    if torch.cuda.is_available():
        options["device_map"] = {"": torch.cuda.current_device()}
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, trust_remote_code=runs_code(folder), **options
    )
    if info["missing_keys"]:
        raise ValueError(
            f"{folder} is not a complete causal language model: {len(info['missing_keys'])} weights are missing "
            f"(such as {sorted(info['missing_keys'])[0]}) and would be random."
        )
    keep_four_bits_unpacked(model)
    model.config.use_cache = True
    return cast("nn.Module", model)


def keep_four_bits_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16, which it does at the first forward pass
    in evaluation mode.

    Repacked weights are multiplied in bf16, whatever was asked for, and by a kernel without a gradient: a model that
    was evaluated before its training (0.50.2) would train with most of its gradient missing (norm 0.26 instead of
    0.86), without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False


def compute_dtype(precision: str) -> torch.dtype:
    """Return the torch dtype of "fp32", "bf16" or "fp16"."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def quantization(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return bitsandbytes settings for a `kind`: nf4 or fp4 with double quantisation, computing in `dtype`, or int8.
    Raises Unavailable without the package."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"quantize: {kind} needs the package bitsandbytes ({error}).") from error
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder. The tokens that begin, end and pad texts, where the tokenizer's own files
    do not name them (a `tokenizer.json` alone), are those of the model's configuration."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=runs_code(folder))
    config = read_config(folder)
    for name in ("eos_token", "bos_token", "pad_token"):
        number = config.get(f"{name}_id")
        number = number[0] if isinstance(number, list) and number else number
        if getattr(tokenizer, name) is None and isinstance(number, int) and 0 <= number < len(tokenizer):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
    return tokenizer


def logits_at(
    model: nn.Module,
    input_ids: torch.Tensor,
    places: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the logits [batch, places, vocabulary] at the given places of the sequence.

    `places` [places] count from the end (-1 is the last), so they also hold where a method puts virtual tokens in
    front. Other places are not computed where the model allows it: with a vocabulary of 262k they are most of the work.
    """
    options = {} if attention_mask is None else {"attention_mask": attention_mask}
    if accepts_places(inside(model)):
        kept: torch.Tensor = model(input_ids=input_ids, logits_to_keep=places, use_cache=False, **options).logits
        return kept
    logits: torch.Tensor = model(input_ids=input_ids, use_cache=False, **options).logits
    return logits[:, places]


def prompt_run_once(model: nn.Module) -> nn.Module:
    """Return a model for scoring that runs its soft prompt or prefix once and caches the keys and values.

    With short inputs a prompt is half of the work. It also keeps generated items independent of their batch: peft puts
    the prompt before the left padding, which then separates it from the text. Models without a prompt, and models that
    make a new prompt for each input, are returned unchanged.
    """
    config = getattr(model, "active_peft_config", None)
    kind = getattr(config, "peft_type", None)
    if kind not in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"):
        return model
    import torch

    inner: Any = model.get_base_model()  # type: ignore[operator]
    with torch.no_grad():
        prompt: Any = model.get_prompt(batch_size=1)  # type: ignore[operator]
        if kind == "PREFIX_TUNING":
            kept = prompt
        else:
            kept = inner(inputs_embeds=prompt.to(inner.dtype), use_cache=True).past_key_values

    return behind(inner, kept)


def text_run_once(model: nn.Module, token_ids: Sequence[int]) -> nn.Module:
    """Return a model for scoring inputs that follow a text: the text (`token_ids`) is run once, and its keys and values
    are cached. The inputs are given without it."""
    import torch

    inner: Any = model
    ids = torch.tensor([list(token_ids)], device=next(model.parameters()).device)
    with torch.no_grad():
        kept = inner(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    return behind(inner, kept)


def behind(inner: Any, kept: Any) -> nn.Module:
    """Return a model for scoring that continues each input from `kept`, the keys and values that the model `inner` has
    computed for what stands before every input."""
    import torch

    def copies(number: int) -> Cache:
        past = copy.deepcopy(kept)
        past.batch_repeat_interleave(number)
        return past

    class Prompted(torch.nn.Module):
        config = inner.config
        is_opened = True  # something has been run before its inputs

        def __init__(self) -> None:
            super().__init__()
            vars(self)["inner"] = inner  # not as a part of it, whose weights would be its own
            self.copies = copies

        def forward(
            self, input_ids: torch.Tensor, logits_to_keep: int | torch.Tensor = 0, use_cache: bool = False
        ) -> CausalLMOutputWithPast:
            past = copies(len(input_ids))
            return inner(input_ids=input_ids, past_key_values=past, use_cache=True, logits_to_keep=logits_to_keep)

        def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: object) -> torch.Tensor:
            """Generate token ids. `input_ids` and `attention_mask` are padded on the left; positions do not count the
            padding."""
            before = attention_mask.new_ones(len(input_ids), kept.get_seq_length())
            mask, past = torch.cat([before, attention_mask], dim=1), copies(len(input_ids))
            generated: torch.Tensor = inner.generate(
                input_ids=input_ids, attention_mask=mask, past_key_values=past, **options
            )
            return generated

    return Prompted()


def inside(model: nn.Module) -> nn.Module:
    """Return a model without the wrapper that spreads it over devices (DDP, DeepSpeed)."""
    from accelerate.utils import extract_model_from_parallel

    return cast("nn.Module", extract_model_from_parallel(model))


def accepts_places(model: nn.Module) -> bool:
    """Return whether a model can compute logits at some places only (`logits_to_keep`)."""
    unwrap: Callable[[], nn.Module] = getattr(model, "get_base_model", lambda: model)
    return "logits_to_keep" in inspect.signature(unwrap().forward).parameters
