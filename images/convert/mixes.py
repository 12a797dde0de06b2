"""Which type llama.cpp's llama-quantize gives to each tensor of a dense Llama or Qwen model.

The prebuilt wheel has ggml's kernels but not llama-quantize's driver, so its rules are written here (llama_tensor_get_type_impl and
tensor_type_fallback in llama.cpp's src/llama-quant.cpp); a test holds every tensor byte-equal to the real llama-quantize's.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from program import INVALID, ProgramError
from sources import gguf

Type = gguf.GGMLQuantizationType
ARCHITECTURES = ("llama", "qwen2", "qwen3")
MAIN = {
    **{"q8_0": Type.Q8_0, "q6_k": Type.Q6_K, "q5_k_m": Type.Q5_K, "q5_k_s": Type.Q5_K, "q4_k_m": Type.Q4_K, "q4_k_s": Type.Q4_K, "q4_0": Type.Q4_0},
    **{"q3_k_l": Type.Q3_K, "q3_k_m": Type.Q3_K, "q3_k_s": Type.Q3_K, "q2_k": Type.Q2_K, "iq4_nl": Type.IQ4_NL, "iq4_xs": Type.IQ4_XS},
    **{"iq3_m": Type.IQ3_S, "iq3_s": Type.IQ3_S, "iq3_xs": Type.IQ3_S, "iq3_xxs": Type.IQ3_XXS},
    **{"iq2_m": Type.IQ2_S, "iq2_s": Type.IQ2_XS, "iq2_xs": Type.IQ2_XS, "iq2_xxs": Type.IQ2_XXS},
}
"""The type of most tensors of a file."""
FILE_TYPES = {kind: gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"] for kind in MAIN}
NARROW = {
    **{Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0, Type.Q2_K: Type.Q4_0, Type.Q3_K: Type.Q4_0},
    **dict.fromkeys((Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S, Type.IQ4_XS), Type.IQ4_NL),
}
"""What replaces a type of 256-weight blocks where a row is no multiple of 256."""
BLIND = (Type.IQ3_XXS, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S)
"""Types that make garbage of a tensor without an importance matrix (tensor_requires_imatrix)."""
TWO_BITS, RICH_TWO_BITS = ("iq2_xxs", "iq2_xs", "iq2_s", "iq2_m"), ("iq2_s", "iq2_m")
EVERYWHERE = {
    "attn_output": {"q2_k": Type.Q3_K, "iq3_xxs": Type.IQ3_S, "q3_k_m": Type.Q4_K, "q3_k_l": Type.Q5_K, "iq3_m": Type.Q4_K}
    | dict.fromkeys(RICH_TWO_BITS, Type.IQ3_S),
    "attn_q": {"iq3_xs": Type.IQ3_XXS, "iq3_xxs": Type.IQ2_S},
    "attn_k": {"iq3_xs": Type.IQ3_XXS, "iq3_xxs": Type.IQ2_S},
}
"""Tensors that have another type than the main one in every layer."""
SHARED = {"q2_k": Type.Q3_K, "iq3_xxs": Type.IQ3_XXS, "iq2_xxs": Type.Q2_K, "iq2_xs": Type.Q2_K, "iq2_s": Type.IQ3_S, "iq2_m": Type.IQ3_S}
"""attn_v's type where fewer than four query heads share one of its heads."""
SPARED = {"q2_k": Type.Q4_K, "iq4_nl": Type.Q5_K, "iq4_xs": Type.Q5_K} | dict.fromkeys(("iq3_xxs", "iq3_xs", "iq3_s", *TWO_BITS), Type.Q4_K)
"""attn_v's type where four or more do: it is small there, and worth more bits."""


@dataclass(frozen=True)
class Mix:
    """A quantisation of one model: which type a tensor gets."""

    kind: str
    layers: int
    tied: bool
    """The token embedding is the output matrix too."""
    architecture: str = "llama"
    sharing: int = 1
    """Query heads that share one key-value head."""
    guided: bool = False
    """An importance matrix is at hand."""

    def __post_init__(self) -> None:
        if self.kind not in MAIN:
            near = difflib.get_close_matches(self.kind, MAIN, 1)
            raise ProgramError(f"{self.kind} is no type of a GGUF file", f"did you mean {near[0]}?" if near else f"known: {', '.join(MAIN)}", INVALID)

    def type_of(self, name: str, columns: int, own: Any) -> Any:
        """Return the type for a tensor by its name and row length; what is not quantised keeps its own.

        ProgramError where that type cannot do without an importance matrix and there is none.
        """
        if not name.endswith("weight") or "_norm.weight" in name or name == "rope_freqs.weight":
            return own
        wanted = self._wanted(name, columns)
        if columns % gguf.GGML_QUANT_SIZES[wanted][0]:
            wanted = NARROW.get(wanted, wanted)
        if columns % gguf.GGML_QUANT_SIZES[wanted][0]:
            return Type.F16
        if wanted in BLIND and not self.guided and name not in ("token_embd.weight", "output.weight"):
            message = f"{self.kind} makes {name} {wanted.name}, which is garbage without an importance matrix"
            raise ProgramError(message, "state gguf.imatrix, such as {rows: 64}, or choose a type that needs none, such as iq4_xs or q3_k_m", INVALID)
        return wanted

    def _wanted(self, name: str, columns: int) -> Any:
        main = MAIN[self.kind]
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return self._output(columns)
        if name == "token_embd.weight":
            poor = Type.Q2_K if self.kind in TWO_BITS else Type.IQ3_S
            return Type.IQ3_S if self.kind in RICH_TWO_BITS else poor if self.kind in (*TWO_BITS, "iq3_xxs") else main
        part = next((part for part in ("attn_v", "attn_k", "attn_q", "attn_output", "ffn_up", "ffn_gate", "ffn_down") if f".{part}." in name), "")
        if part == "attn_v":
            return self._values(self._layer(name))
        if part == "ffn_down":
            return self._down(self._layer(name))
        if part in ("ffn_up", "ffn_gate") and self.kind == "iq3_xs" and self.layers // 8 <= self._layer(name) < 7 * self.layers // 8:
            return Type.IQ3_XXS
        return EVERYWHERE.get(part, {}).get(self.kind, main)

    def _output(self, columns: int) -> Any:
        main = MAIN[self.kind]
        if columns % gguf.GGML_QUANT_SIZES[main][0] or main == Type.Q8_0:
            return Type.Q8_0
        return Type.Q5_K if self.kind in (*TWO_BITS, "iq3_xxs") else Type.Q6_K

    def _values(self, layer: int) -> Any:
        main = MAIN[self.kind]
        chosen = SPARED.get(self.kind, main) if self.sharing >= 4 else SHARED.get(self.kind, main)
        if self.kind in TWO_BITS:
            return chosen
        match self.kind:
            case "iq3_xxs" if not self.guided and self.sharing < 4:
                chosen = Type.IQ3_S
            case "iq3_m":
                chosen = Type.Q4_K
            case "q3_k_m":
                chosen = Type.Q5_K if layer < 2 else Type.Q4_K
            case "q3_k_l":
                chosen = Type.Q5_K
            case "q4_k_s":
                chosen = Type.Q5_K if layer < 4 else main
            case "q4_k_m" | "q5_k_m":
                chosen = Type.Q6_K if self._sensitive(layer) else main
        # llama.cpp gives what it takes for a 70B model more here; it knows none of them among Qwen3's
        large = self.layers == 80 and (self.architecture == "qwen2" or (self.architecture == "llama" and self.sharing > 1))
        return Type.Q5_K if large and chosen in (Type.Q3_K, Type.Q4_K) else chosen

    def _down(self, layer: int) -> Any:
        main, first = MAIN[self.kind], layer < self.layers // 8
        match self.kind:
            case "q2_k":
                return Type.Q3_K
            case "iq3_xxs" if not self.guided:
                return Type.Q4_K if first else Type.Q3_K
            case "q3_k_m":
                return Type.Q5_K if layer < self.layers // 16 else Type.Q4_K
            case "q3_k_l":
                return Type.Q5_K
            case "q4_k_m" | "q5_k_m":
                return Type.Q6_K if self._sensitive(layer) else main
        early = {"iq2_xxs": Type.Q2_K, "iq2_xs": Type.Q2_K, "iq2_s": Type.IQ3_S, "iq2_m": Type.IQ3_S, "iq3_m": Type.Q4_K, "q4_k_s": Type.Q5_K}
        # with a matrix these need no help in the first layers, and Q4_0 does
        early |= {"q4_0": Type.Q4_1} if self.guided else {"iq4_nl": Type.Q5_K, "iq4_xs": Type.Q5_K}
        return early.get(self.kind, main) if first else main

    def _layer(self, name: str) -> int:
        return int(re.findall(r"blk\.(\d+)\.", name)[0])

    def _sensitive(self, layer: int) -> bool:
        """Say whether the layer is among the first or last eighth, or a third one between: these get more bits."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2
