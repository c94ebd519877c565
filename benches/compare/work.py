"""What the model asks for, counted from its dimensions, and the least time that this takes at the rates of a machine.

A floor knows no implementation: a picture is encoded once, what is known is not computed again, and each graph is as
fast as its arithmetic or its reading of weights, whichever takes longer. Layer norms, quantisation and choice of tokens
are free. So nothing reaches it, and measured / floor compares precisions and machines. A multiply-add counts as two
operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compare.cases import Manner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blip2_export.checkpoint.config import Blip2Config
    from compare.cases import Ask

# 4 bits carry a 32-bit scale and a zero point for every 32 weights. Its output layer has 8 bits.
BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5 + 4.5 / 32}
OUTPUT_BYTES = {**BYTES_PER_WEIGHT, "int4": 1.0}
# Products of 4-bit weights are done in integers; attention between activations in floating point.
PRODUCT_RATE = {"int4": "int8"}
ATTENTION_RATE = {"int4": "fp32", "int8": "fp32"}
KV_BYTES = {"bf16": 2, "fp16": 2}
KV_BYTES_ELSE = 4
AT_ONCE = 16


@dataclass(frozen=True)
class Operations:
    """Of products with weights, and of attention."""

    products: float
    attention: float = 0.0

    def seconds(self, precision: str, rates: Mapping[str, float], times: float = 1.0) -> float:
        """At the rates of the machine."""
        products = rates[PRODUCT_RATE.get(precision, precision)]
        attention = rates[ATTENTION_RATE.get(precision, precision)]
        return times * (self.products / products + self.attention / attention)


@dataclass(frozen=True)
class Work:
    """The model's work, by stage."""

    vision_encoder: Operations  # a picture
    qformer: Operations  # a picture
    decoder_position: Operations  # one position through all layers, without attention and output layer
    output_position: Operations  # one position through the output layer
    attention_pair: float  # operations of one position that looks at another
    layer_weights: int
    output_weights: int
    kv_elements: int  # a position
    prefix: int  # positions of a picture

    @classmethod
    def of(cls, config: Blip2Config) -> Work:
        """From the dimensions alone."""
        text = config.text
        layer = 4 * text.hidden_size**2 + 2 * text.hidden_size * text.ffn_size
        output = text.hidden_size * text.vocab_size
        return cls(
            vision_encoder=_vision(config),
            qformer=_qformer(config),
            decoder_position=Operations(2.0 * text.num_layers * layer),
            output_position=Operations(2.0 * output),
            attention_pair=4.0 * text.hidden_size * text.num_layers,
            layer_weights=text.num_layers * layer,
            output_weights=output,
            kv_elements=2 * text.hidden_size * text.num_layers,
            prefix=config.qformer.num_query_tokens,
        )


@dataclass(frozen=True)
class Floors:
    """The least times of one precision on one machine."""

    work: Work
    precisions: Mapping[str, str]
    rates: Mapping[str, float]

    def encode_s(self) -> float:
        """One picture through the vision encoder."""
        return self.work.vision_encoder.seconds(self.precisions["vision_encoder"], self.rates)

    def qformer_s(self) -> float:
        """One picture through the Q-Former."""
        return self.work.qformer.seconds(self.precisions["qformer"], self.rates)

    def prefill_s(self, rows: Sequence[int], behind: int = 0) -> float:
        """Rows of so many positions each, behind `behind` positions that are known; one output a row."""
        work = self.work
        products = sum(rows) * work.decoder_position.products + len(rows) * work.output_position.products
        pairs = sum(seq * behind + seq * (seq + 1) / 2 for seq in rows)
        operations = Operations(products, pairs * work.attention_pair)
        return max(operations.seconds(self.precisions["decoder"], self.rates), self._read_s(len(rows) * behind))

    def step_s(self, lengths: Sequence[int]) -> float:
        """One token for each row, of lengths with that token."""
        work = self.work
        products = len(lengths) * (work.decoder_position.products + work.output_position.products)
        operations = Operations(products, sum(lengths) * work.attention_pair)
        return max(operations.seconds(self.precisions["decoder"], self.rates), self._read_s(sum(lengths)))

    def request_s(self, rows: Sequence[Row], *, picture_is_known: bool = False) -> float:
        """Rows that come together, until the last is answered: pictures, prompts, and steps of the rows that go on."""
        if len(rows) > AT_ONCE:
            return self.request_s(rows[:AT_ONCE]) + self.request_s(rows[AT_ONCE:])
        pictures = len({row.picture for row in rows})
        if picture_is_known:
            seconds, prefill = 0.0, self.prefill_s([row.text for row in rows], behind=self.work.prefix)
        elif pictures < len(rows):
            # One picture: its positions are fed once, each text behind them.
            seconds = pictures * (self.encode_s() + self.qformer_s())
            products = pictures * self.work.prefix * self.work.decoder_position.products
            prefix = Operations(products).seconds(self.precisions["decoder"], self.rates)
            prefill = prefix + self.prefill_s([row.text for row in rows], behind=self.work.prefix)
        else:
            seconds = pictures * (self.encode_s() + self.qformer_s())
            prefill = self.prefill_s([self.work.prefix + row.text for row in rows])
        seconds += prefill
        for step in range(1, max(row.new_tokens for row in rows)):
            seconds += self.step_s([self.work.prefix + row.text + step for row in rows if row.new_tokens > step])
        return seconds

    def _read_s(self, kv_positions: int) -> float:
        """Weights once, and the keys and values of all positions."""
        decoder = self.precisions["decoder"]
        weights = self.work.layer_weights * BYTES_PER_WEIGHT[decoder]
        weights += self.work.output_weights * OUTPUT_BYTES[decoder]
        kv = kv_positions * self.work.kv_elements * KV_BYTES.get(decoder, KV_BYTES_ELSE)
        return (weights + kv) / self.rates["bandwidth"]


@dataclass(frozen=True)
class Row:
    """A row as a floor sees it: which picture, how many positions its text has, how many tokens are new."""

    picture: int
    text: int
    new_tokens: int


def case_floor_s(floors: Floors, manner: Manner, asks: Sequence[Ask], text_tokens: Mapping[str, int]) -> float:
    """The floor of one pass of a case."""
    is_streamed = manner is Manner.STREAMED
    rows = [Row(ask.picture, text_tokens[ask.text], 1 if is_streamed else ask.new_tokens) for ask in asks]
    return floors.request_s(rows, picture_is_known=manner is Manner.REPEATED)


def _vision(config: Blip2Config) -> Operations:
    vision = config.vision
    patches = (vision.num_tokens - 1) * 3 * vision.patch_size**2 * vision.hidden_size
    layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    products = patches + vision.num_layers * vision.num_tokens * layer
    attention = vision.num_layers * 2 * vision.num_tokens**2 * vision.hidden_size
    return Operations(2.0 * products, 2.0 * attention)


def _qformer(config: Blip2Config) -> Operations:
    """With the projection into the language model."""
    qformer, image = config.qformer, config.vision
    queries, hidden = qformer.num_query_tokens, qformer.hidden_size
    layer = queries * (4 * hidden**2 + 2 * hidden * qformer.intermediate_size)
    cross = queries * 2 * hidden**2 + image.num_tokens * 2 * image.hidden_size * hidden
    layers = sum(cross if qformer.has_cross_attention(number) else 0 for number in range(qformer.num_layers))
    crossing = sum(qformer.has_cross_attention(number) for number in range(qformer.num_layers))
    products = qformer.num_layers * layer + layers + queries * hidden * config.text.hidden_size
    pairs = qformer.num_layers * queries**2 + crossing * queries * image.num_tokens
    return Operations(2.0 * products, 2.0 * 2 * pairs * hidden)
