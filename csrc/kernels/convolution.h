// A convolution over the tokens of one text, with what comes after it: a layer of the router's tagger.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/isa.h"

namespace mome {

// outputs[t][o] = act(bias[o] + sum over k, i of weights[o][k][i] * inputs[t + k - reach / 2][i]), inputs beyond the
// text being 0; act is the GELU where `gelu` is set, and nothing otherwise. inputs [tokens, width], weights [o, reach,
// width], outputs [tokens, o]; the reach is odd, as it follows from the sizes.
//
// On the calling thread alone, as `inner_products`, whose sums these are. SchemaError where the sizes don't fit.
void convolve(std::span<const float> inputs, int64_t width, std::span<const float> weights, std::span<const float> bias,
              bool gelu, std::span<float> outputs, Isa isa);

}  // namespace mome
