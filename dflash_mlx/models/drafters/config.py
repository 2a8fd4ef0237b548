"""A drafter's numbers, in the one form from which models are built.

Owns the fields and our own config.json: z-lab's second generation, with the names of
other packagings where z-lab has none. Does not know other packagings; see packagings/.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .config_file import ConfigFile
from .fields import (
    FULL,
    GEMMA,
    MARKOV,
    QWEN,
    check_numbers,
    read_attention,
    read_rope,
)

# The value of `packaging` in our own config.json.
OWN_PACKAGING = "dflash-mlx"
# Published drafters with full layers were trained on 3,072 to 4,096 tokens at most.
DEFAULT_WINDOW = 4096


@dataclass(frozen=True)
class DFlashConfig:
    """The numbers of a DFlash drafter, under the checkpoints' names.

    Args:
        block_size: Rows of a block, the anchor included.
        sample_from_anchor: The anchor's slot predicts, so that every row drafts.
        target_layer_ids: The 0-based target layers whose output is read, in order.
        target_hidden_size: Width of those outputs; None is hidden_size.
        layer_types: A type for each layer; empty if all layers are full.
        is_causal: Whether a row sees no later row of its block, in all layers. None:
            sliding layers are causal, full layers are not.
        context_window: Committed rows that full layers see by default; None is
            DEFAULT_WINDOW.
        window_from_anchor: With a sliding window of W, every row sees the W committed
            rows before the anchor. Otherwise a row sees W positions, its own included.
        attention_sink_bias: Heads have a learned sink.
        attention_gate: "per-element" (gates from q_proj, sigmoid), "per-head" (from
            g_proj, softplus) or None.
        partial_rotary_factor: The share of a head's channels that is rotated.
        attention_k_eq_v: Values come from k_proj (Gemma 4 only).
        norm_context: Context rows also pass the input norm of each layer.
        norm_taps: Each tapped output has its own norm before `fc`.
        num_target_layers: Depth of the target; None if it is not known.
        draft_vocab_size: Rows of a reduced vocabulary; None is the target's vocabulary.
        has_embed_tokens, has_lm_head: The checkpoint has its own embedding and head.
        model_type: The kind of layers: "qwen3" or "gemma4_text".
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    num_target_layers: int | None
    rope_theta: float
    rope_scaling: dict[str, Any] | None = None
    layer_types: tuple[str, ...] = ()
    sliding_window: int | None = None
    is_causal: bool | None = None
    window_from_anchor: bool = False
    context_window: int | None = None
    rope_is_neox_style: bool = True
    partial_rotary_factor: float = 1.0
    input_embedding_scale: float = 1.0
    output_multiplier: float = 1.0
    final_logit_softcapping: float | None = None
    sample_from_anchor: bool = False
    target_hidden_size: int | None = None
    attention_sink_bias: bool = False
    attention_gate: str | None = None
    attention_k_eq_v: bool = False
    norm_context: bool = False
    norm_taps: bool = False
    draft_vocab_size: int | None = None
    has_embed_tokens: bool = False
    has_lm_head: bool = False
    model_type: str = QWEN

    ARCHITECTURE = "DFlashDraftModel"
    # Fields that z-lab's second generation writes in dflash_config.
    NESTED = ("block_size", "mask_token_id", "target_layer_ids")

    @classmethod
    def from_file(cls, file: ConfigFile) -> DFlashConfig:
        """Read the numbers from a config.json whose fields have our meaning.

        Raises:
            ConfigError: A field is missing, contradictory or wrong.
        """
        check_numbers(file)
        heads = file.get("num_attention_heads", int)
        hidden, layers = (
            file.get(name, int) for name in ("hidden_size", "num_hidden_layers")
        )
        vocabulary = file.get("vocab_size", int)
        reduced = file.get("draft_vocab_size", int, vocabulary)
        body = file.get("model_type", str, QWEN)
        return cls(
            hidden_size=hidden,
            intermediate_size=file.get("intermediate_size", int),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=file.get("num_key_value_heads", int, heads),
            head_dim=file.get("head_dim", int, hidden // heads),
            vocab_size=vocabulary,
            rms_norm_eps=file.get("rms_norm_eps", float),
            max_position_embeddings=file.get("max_position_embeddings", int, 40960),
            block_size=file.get("block_size", int),
            mask_token_id=file.get("mask_token_id", int),
            target_layer_ids=tuple(file.get("target_layer_ids", list)),
            num_target_layers=file.get("num_target_layers", int, None),
            rope_is_neox_style=file.get("rope_is_neox_style", bool, True),
            partial_rotary_factor=file.get("partial_rotary_factor", float, 1.0),
            input_embedding_scale=file.get("input_embedding_scale", float, 1.0),
            output_multiplier=file.get("output_multiplier", float, 1.0),
            final_logit_softcapping=file.get("final_logit_softcapping", float, None),
            sample_from_anchor=file.get(
                "sample_from_anchor", bool, cls.sample_from_anchor
            ),
            target_hidden_size=file.get("target_hidden_size", int, None),
            attention_sink_bias=file.get("attention_sink_bias", bool, False),
            attention_gate=file.get("attention_gate", str, None),
            attention_k_eq_v=file.get("attention_k_eq_v", bool, False),
            norm_context=file.get("norm_context", bool, False),
            norm_taps=file.get("norm_taps", bool, False),
            draft_vocab_size=reduced if reduced < vocabulary else None,
            has_embed_tokens=file.get("has_embed_tokens", bool, False),
            has_lm_head=file.get("has_lm_head", bool, False),
            model_type=GEMMA if "gemma4" in body else QWEN,
            context_window=file.get("context_window", int, None),
            **read_rope(file),
            **read_attention(file, layers),
            **cls.extra_fields(file),
        )

    @classmethod
    def extra_fields(cls, file: ConfigFile) -> dict[str, Any]:
        """The fields that a subclass adds."""
        return {}

    @classmethod
    def field_names(cls) -> set[str]:
        """The names of all fields."""
        return {field.name for field in fields(cls)}

    def with_tensors(self, names: Collection[str]) -> DFlashConfig:
        """A copy with the tables, heads and biases that a checkpoint really has.

        Args:
            names: The names of its tensors, as ours.
        """
        return replace(self, **self._found_in(names))

    def _found_in(self, names):
        return {
            "has_embed_tokens": "embed_tokens.weight" in names,
            # A reduced vocabulary always has its own head.
            "has_lm_head": "lm_head.weight" in names or bool(self.draft_vocab_size),
        }

    @property
    def default_window(self) -> int | None:
        """Committed rows that full layers see by default; None is all.

        Rows further back than the longest text in training only add noise.
        """
        if self.layer_types and FULL not in self.layer_types:
            return None
        return self.context_window or DEFAULT_WINDOW

    @property
    def first_draft_row(self) -> int:
        """The first row of a block that drafts: the anchor's, or the one after it."""
        return 0 if self.sample_from_anchor else 1

    def to_json(self) -> dict[str, Any]:
        """The contents of our config.json, which `from_file` reads."""
        written = asdict(self)
        nested = {name: written.pop(name) for name in self.NESTED}
        rope = written.pop("rope_scaling") or {"rope_type": "default"}
        # z-lab's format leaves defaults out.
        plain = {f.name: f.default for f in fields(self) if f.name != "model_type"}
        return {
            "architectures": [self.ARCHITECTURE],
            **{
                name: value
                for name, value in written.items()
                if value is not None and value != plain.get(name, ...)
            },
            "packaging": OWN_PACKAGING,
            "num_target_layers": self.num_target_layers,
            "rope_parameters": rope | {"rope_theta": self.rope_theta},
            "dflash_config": nested,
        }


@dataclass(frozen=True)
class DFlash2Config(DFlashConfig):
    """The numbers of a DFlash 2 drafter."""

    conv_kernel_size: int = 2
    conv_group_size: int = 16
    selector_rank: int = 256
    selector_top_k: int = 16

    ARCHITECTURE = "DFlash2DraftModel"
    EXTRAS = ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")
    NESTED = (*DFlashConfig.NESTED, *EXTRAS)

    @classmethod
    def extra_fields(cls, file: ConfigFile) -> dict[str, Any]:
        """The sizes of convolutions and selector, all required."""
        found = {name: file.get(name, int) for name in cls.EXTRAS}
        for name, value in found.items():
            file.check(name, value > 0)
        hidden = file.get("hidden_size", int)
        file.check("conv_group_size", hidden % found["conv_group_size"] == 0)
        vocabulary = file.get("draft_vocab_size", int, file.get("vocab_size", int))
        file.check("selector_top_k", found["selector_top_k"] <= vocabulary)
        return found


@dataclass(frozen=True)
class DSparkConfig(DFlashConfig):
    """The numbers of a DSpark drafter.

    Args:
        markov_rank: Rank of the Markov head; 0 is no head.
        markov_bias: The projection of a gated or recurrent Markov head has a bias.
        log_snr_conditioning: A learned noise embedding is added to the rows of a block.
        min_log_snr, max_log_snr: The noise of masked rows, and of the anchor.
    """

    sample_from_anchor: bool = True
    markov_rank: int = 256
    markov_head_type: str = "vanilla"
    markov_bias: bool = True
    enable_confidence_head: bool = True
    confidence_head_with_markov: bool = True
    log_snr_conditioning: bool = False
    min_log_snr: float | None = None
    max_log_snr: float | None = None

    ARCHITECTURE = "DSparkDraftModel"

    @classmethod
    def extra_fields(cls, file: ConfigFile) -> dict[str, Any]:
        """The numbers of Markov head, confidence head and noise embedding."""
        rank = file.get("markov_rank", int, 256)
        file.check("markov_rank", rank >= 0)
        kind = file.get("markov_head_type", str, "vanilla")
        file.check("markov_head_type", kind in MARKOV)
        noise = file.get("log_snr_conditioning", bool, False)
        low, high = (
            file.get(name, float, *(() if noise else (None,)))
            for name in ("min_log_snr", "max_log_snr")
        )
        file.check("min_log_snr", not noise or low < high)
        return {
            "markov_rank": rank,
            "markov_head_type": kind,
            "markov_bias": file.get("markov_bias", bool, True),
            "enable_confidence_head": file.get("enable_confidence_head", bool, True),
            "confidence_head_with_markov": file.get(
                "confidence_head_with_markov", bool, True
            ),
            "log_snr_conditioning": noise,
            "min_log_snr": low if noise else None,
            "max_log_snr": high if noise else None,
        }

    def _found_in(self, names):
        biases = (f"markov_head.{name}_proj.bias" for name in ("gate", "joint"))
        return super()._found_in(names) | {
            "enable_confidence_head": "confidence_head.proj.weight" in names,
            "markov_bias": any(bias in names for bias in biases),
        }

    def to_json(self) -> dict[str, Any]:
        """The contents of our config.json, in SpecForge's form."""
        written = super().to_json()
        written["dflash_config"]["projector_type"] = "dspark"
        return written


KINDS = (DFlashConfig, DFlash2Config, DSparkConfig)
