#include "kernels/convolution.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

#include "format/errors.h"
#include "kernels/inner_products.h"

namespace mome {

void convolve(std::span<const float> inputs, int64_t width, std::span<const float> weights, std::span<const float> bias,
              bool gelu, std::span<float> outputs, Isa isa) {
    const int64_t filters = std::ssize(bias);
    if (width < 1 || filters < 1 || inputs.size() % static_cast<size_t>(width) != 0 ||
        std::ssize(weights) % (filters * width) != 0) {
        throw SchemaError("a convolution of arrays whose sizes don't fit");
    }
    const int64_t tokens = std::ssize(inputs) / width, reach = std::ssize(weights) / (filters * width);
    if (reach % 2 != 1 || std::ssize(outputs) != tokens * filters)
        throw SchemaError("a convolution of arrays whose sizes don't fit");
    if (tokens == 0) return;
    std::vector<float> padded(static_cast<size_t>((tokens + reach - 1) * width));
    std::copy(inputs.begin(), inputs.end(), padded.begin() + reach / 2 * width);
    // What a token's filters see, one token after the other: each overlaps the next.
    inner_products(weights, {.values = padded, .stride = width}, reach * width, outputs, isa);
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t o = 0; o < filters; ++o) {
            float& value = outputs[static_cast<size_t>(t * filters + o)];
            value += bias[static_cast<size_t>(o)];
            if (gelu) value *= 0.5F * (1 + std::erf(value / std::numbers::sqrt2_v<float>));
        }
    }
}

}  // namespace mome
