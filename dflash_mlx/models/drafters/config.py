"""A drafter's numbers, in the one form that the models are built from.

Owns the fields, their checks, and our own config.json (z-lab's second generation, with
names of other packagings where z-lab has none). What other packagings write elsewhere
or mean otherwise is settled in packagings.py before it comes here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .checkpoint import Config
from .fields import (
    FULL,
    GEMMA,
    MARKOV,
    QWEN,
    attention_of,
    check_numbers,
    rope_of,
)

# What our own config.json calls itself.
OURS = "dflash-mlx"
# What published heads with full layers were trained on at most (3,072 to 4,096 tokens).
DEFAULT_WINDOW = 4096


@dataclass(frozen=True)
class DFlashConfig:
    """A DFlash head; the names are the checkpoints'.

    Args:
        block_size: Rows of a block, the anchor's among them.
        sample_from_anchor: The anchor's slot predicts too, so every row drafts.
        target_layer_ids: 0-based target layers whose output is read, in order.
        target_hidden_size: Width of those outputs; None is hidden_size.
        layer_types: Without it every layer is full.
        is_causal: Holds for every layer where it is given; without it full layers see
            their whole block, sliding ones are causal in it.
        context_window: Committed rows that full layers see unless it is said
            otherwise; None is DEFAULT_WINDOW.
        window_from_anchor: A sliding window of W shows every row the W committed rows
            before the anchor; without it a row sees W positions, its own included.
        attention_sink_bias: Heads have a learned sink.
        attention_gate: "per-element" (q_proj gives gates too, sigmoid), "per-head"
            (g_proj, softplus) or None.
        partial_rotary_factor: Share of a head's channels that is rotated.
        attention_k_eq_v: Values are the keys' projection (Gemma 4 only).
        norm_context: Context rows pass each layer's input norm too.
        norm_taps: Each tapped output has a norm of its own before `fc`.
        num_target_layers: Depth of the target; None where a packaging does not say.
        draft_vocab_size: Rows of a reduced vocabulary; None is the target's own.
        has_embed_tokens, has_lm_head: The checkpoint brings its own tables.
        model_type: The body: "qwen3" or "gemma4_text".
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
    # Fields that z-lab's second generation keeps in dflash_config.
    NESTED = ("block_size", "mask_token_id", "target_layer_ids")

    @classmethod
    def of(cls, config: Config) -> DFlashConfig:
        """The numbers of a config whose fields are settled.

        Raises:
            ConfigError: A needed field is absent, contradictory or of a wrong kind.
        """
        check_numbers(config)
        heads = config.get("num_attention_heads", int)
        hidden, layers = (
            config.get(name, int) for name in ("hidden_size", "num_hidden_layers")
        )
        vocabulary = config.get("vocab_size", int)
        reduced = config.get("draft_vocab_size", int, vocabulary)
        body = config.get("model_type", str, QWEN)
        return cls(
            hidden_size=hidden,
            intermediate_size=config.get("intermediate_size", int),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads", int, heads),
            head_dim=config.get("head_dim", int, hidden // heads),
            vocab_size=vocabulary,
            rms_norm_eps=config.get("rms_norm_eps", float),
            max_position_embeddings=config.get("max_position_embeddings", int, 40960),
            block_size=config.get("block_size", int),
            mask_token_id=config.get("mask_token_id", int),
            target_layer_ids=tuple(config.get("target_layer_ids", list)),
            num_target_layers=config.get("num_target_layers", int, None),
            rope_is_neox_style=config.get("rope_is_neox_style", bool, True),
            partial_rotary_factor=config.get("partial_rotary_factor", float, 1.0),
            input_embedding_scale=config.get("input_embedding_scale", float, 1.0),
            output_multiplier=config.get("output_multiplier", float, 1.0),
            final_logit_softcapping=config.get("final_logit_softcapping", float, None),
            sample_from_anchor=config.get(
                "sample_from_anchor", bool, cls.sample_from_anchor
            ),
            target_hidden_size=config.get("target_hidden_size", int, None),
            attention_sink_bias=config.get("attention_sink_bias", bool, False),
            attention_gate=config.get("attention_gate", str, None),
            attention_k_eq_v=config.get("attention_k_eq_v", bool, False),
            norm_context=config.get("norm_context", bool, False),
            norm_taps=config.get("norm_taps", bool, False),
            draft_vocab_size=reduced if reduced < vocabulary else None,
            has_embed_tokens=config.get("has_embed_tokens", bool, False),
            has_lm_head=config.get("has_lm_head", bool, False),
            model_type=GEMMA if "gemma4" in body else QWEN,
            context_window=config.get("context_window", int, None),
            **rope_of(config),
            **attention_of(config, layers),
            **cls.own_of(config),
        )

    @classmethod
    def own_of(cls, config: Config) -> dict[str, Any]:
        """What a kind adds to the fields that all have."""
        return {}

    @classmethod
    def names(cls) -> set[str]:
        """Every field."""
        return {field.name for field in fields(cls)}

    @property
    def default_window(self) -> int | None:
        """Committed rows to show where nobody chose; None is all.

        Drafters are trained on texts of some length; rows further back than that are
        noise to them.
        """
        if self.layer_types and FULL not in self.layer_types:
            return None
        return self.context_window or DEFAULT_WINDOW

    @property
    def first_draft_row(self) -> int:
        """The first row of a block that drafts: the anchor's, or the one after it."""
        return 0 if self.sample_from_anchor else 1

    def to_json(self) -> dict[str, Any]:
        """config.json, as DFlashConfig.of reads it."""
        written = asdict(self)
        nested = {name: written.pop(name) for name in self.NESTED}
        rope = written.pop("rope_scaling") or {"rope_type": "default"}
        # What is as z-lab's format has it goes without saying.
        plain = {f.name: f.default for f in fields(self) if f.name != "model_type"}
        return {
            "architectures": [self.ARCHITECTURE],
            **{
                name: value
                for name, value in written.items()
                if value is not None and value != plain.get(name, ...)
            },
            "packaging": OURS,
            "num_target_layers": self.num_target_layers,
            "rope_parameters": rope | {"rope_theta": self.rope_theta},
            "dflash_config": nested,
        }


@dataclass(frozen=True)
class DFlash2Config(DFlashConfig):
    """A DFlash 2 head."""

    conv_kernel_size: int = 2
    conv_group_size: int = 16
    selector_rank: int = 256
    selector_top_k: int = 16

    ARCHITECTURE = "DFlash2DraftModel"
    EXTRAS = ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")
    NESTED = (*DFlashConfig.NESTED, *EXTRAS)

    @classmethod
    def own_of(cls, config: Config) -> dict[str, Any]:
        """The sizes of what DFlash 2 adds; checkpoints give them all."""
        found = {name: config.get(name, int) for name in cls.EXTRAS}
        for name, value in found.items():
            config.check(name, value > 0)
        hidden = config.get("hidden_size", int)
        config.check("conv_group_size", hidden % found["conv_group_size"] == 0)
        vocabulary = config.get("draft_vocab_size", int, config.get("vocab_size", int))
        config.check("selector_top_k", found["selector_top_k"] <= vocabulary)
        return found


@dataclass(frozen=True)
class DSparkConfig(DFlashConfig):
    """A DSpark head.

    Args:
        markov_rank: 0 has no Markov head.
        markov_bias: Its gated or recurrent projection has a bias.
        min_log_snr, max_log_snr: A learned embedding is added to each slot: the
            anchor's is that of the maximum, the others' that of the minimum.
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
    def own_of(cls, config: Config) -> dict[str, Any]:
        """The heads."""
        rank = config.get("markov_rank", int, 256)
        config.check("markov_rank", rank >= 0)
        kind = config.get("markov_head_type", str, "vanilla")
        config.check("markov_head_type", kind in MARKOV)
        noise = config.get("log_snr_conditioning", bool, False)
        low, high = (
            config.get(name, float, *(() if noise else (None,)))
            for name in ("min_log_snr", "max_log_snr")
        )
        config.check("min_log_snr", not noise or low < high)
        return {
            "markov_rank": rank,
            "markov_head_type": kind,
            "markov_bias": config.get("markov_bias", bool, True),
            "enable_confidence_head": config.get("enable_confidence_head", bool, True),
            "confidence_head_with_markov": config.get(
                "confidence_head_with_markov", bool, True
            ),
            "log_snr_conditioning": noise,
            "min_log_snr": low if noise else None,
            "max_log_snr": high if noise else None,
        }

    def to_json(self) -> dict[str, Any]:
        """config.json in SpecForge's form."""
        written = super().to_json()
        written["dflash_config"]["projector_type"] = "dspark"
        return written


KINDS = (DFlashConfig, DFlash2Config, DSparkConfig)
