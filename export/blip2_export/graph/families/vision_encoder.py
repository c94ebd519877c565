"""ViT: pixel_values [batch, 3, height, width] -> image_embeds [batch, num_tokens, hidden].

Patches by convolution, class token first, learned positions, pre-norm blocks, and a last LayerNorm over all
tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blip2_export.graph.families import weights

if TYPE_CHECKING:
    from blip2_export.checkpoint.reader import TensorSource
    from blip2_export.graph.builder import GraphBuilder
    from blip2_export.graph.linear import Linear

ROOT = "vision_model"


class VisionEncoder:
    """Writes the graph of the vision encoder."""

    def __init__(self, checkpoint: TensorSource, builder: GraphBuilder, linear: Linear) -> None:
        self.checkpoint = checkpoint
        self.builder = builder
        self.linear = linear
        self.config = checkpoint.config.vision

    def write(self) -> None:
        """Adds the whole graph to the builder."""
        build, config = self.builder, self.config
        hidden = self._embeddings()
        for layer in range(config.num_layers):
            hidden = self._block(hidden, f"{ROOT}.encoder.layers.{layer}")
        hidden = build.leave(self._norm(hidden, f"{ROOT}.post_layernorm"), f"{ROOT}.post_layernorm/F32")
        build.reshape(hidden, [-1, config.num_tokens, config.hidden_size], "image_embeds")

    def _embeddings(self) -> str:
        """Patches, class token, positions -> [batch * num_tokens, hidden]. Never in integers."""
        build, config, name = self.builder, self.config, f"{ROOT}.embeddings"
        size, width = config.patch_size, config.hidden_size
        patch = f"{name}.patch_embedding"
        kernel = self.checkpoint.tensor(f"{patch}.weight", (width, 3, size, size))
        bias = self.checkpoint.tensor(f"{patch}.bias", (width,))
        inputs = [
            build.enter("pixel_values", "pixel_values/Typed"),
            build.floats(f"{patch}.weight", kernel),
            build.floats(f"{patch}.bias", bias),
        ]
        grid = build.op("Conv", inputs, patch, kernel_shape=[size, size], strides=[size, size])
        flat = build.reshape(grid, [0, width, -1], f"{patch}/Flat")
        patches = build.op("Transpose", [flat], f"{patch}/Patches", perm=[0, 2, 1])
        tokens = build.op("Concat", [self._class_tokens(patches), patches], f"{name}/Tokens", axis=1)
        table = self.checkpoint.tensor(f"{name}.position_embedding", (1, config.num_tokens, width))
        placed = build.op("Add", [tokens, build.floats(f"{name}.position_embedding", table)], name)
        return build.tokens(placed, width, f"{name}/Flat")

    def _class_tokens(self, patches: str) -> str:
        """Returns the class token once per image: [batch, 1, hidden]."""
        build, name, width = self.builder, f"{ROOT}.embeddings.class_embedding", self.config.hidden_size
        token = build.floats(name, self.checkpoint.tensor(name, (1, 1, width)))
        return build.once_per_row(token, patches, name)

    def _block(self, x: str, name: str) -> str:
        build, config = self.builder, self.config
        attended = self._self_attention(self._norm(x, f"{name}.layer_norm1"), f"{name}.self_attn")
        x = build.op("Add", [x, attended], f"{name}.self_attn/Residual")
        inner = self._norm(x, f"{name}.layer_norm2")
        inner = self._linear(inner, f"{name}.mlp.fc1", config.intermediate_size, config.hidden_size)
        inner = self.linear.gelu(inner, f"{name}.mlp.activation_fn")
        inner = self._linear(inner, f"{name}.mlp.fc2", config.hidden_size, config.intermediate_size)
        return build.op("Add", [x, inner], f"{name}.mlp/Residual")

    def _self_attention(self, x: str, name: str) -> str:
        build, config = self.builder, self.config
        width = config.hidden_size
        layer = weights.linear(self.checkpoint, f"{name}.qkv", 3 * width, width, has_bias=config.qkv_bias)
        inputs, bias = self.linear.qkv(x, name, *layer, config.num_tokens)
        context = build.attention(*inputs, name, config.num_heads, width // config.num_heads, bias)
        context = build.tokens(context, width, f"{name}/Flat")
        return self._linear(context, f"{name}.projection", width, width)

    def _linear(self, x: str, name: str, out: int, into: int) -> str:
        return self.linear(x, name, *weights.linear(self.checkpoint, name, out, into))

    def _norm(self, x: str, name: str) -> str:
        layer = weights.norm(self.checkpoint, name, self.config.hidden_size)
        return self.builder.layer_norm(x, name, *layer, self.config.layer_norm_eps)
