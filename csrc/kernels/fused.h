// The fused shrink (t = A x) and expand (delta += B t), written once over a vector type V:
//
//     Vec, kWidth (8 or 16 floats), Mask, kAll, kHalf (the first 8 lanes),
//     zero, broadcast, multiply_add(a, b, c) = a * b + c, add, sum(Vec) in one fixed order,
//     load / store of fp32, bf16 and fp16 under a mask (lanes outside read as 0 and are not written)
//
// Each file that includes this is compiled for its own instruction set. So everything here depends on V or has internal
// linkage, and nothing from the standard library is instantiated: the linker must never pick an AVX-512 copy of a
// function that the rest of the program shares.
//
// Accumulation order, the same whatever the tile: t[row][r] is one chain of multiply-adds over d_in in steps of the
// width, then sum(); delta[row][j] is one chain over experts in order and ranks in order. Blocks of ranks and rows only
// decide how many such chains are in flight.
#pragma once

#include "kernels/tile.h"

namespace mome {
namespace {

constexpr int kRanks = 4;  // chains in flight: kRanks x kRows accumulators, which fit 16 registers
constexpr int kRows = 2;

template <DType T>
struct ElementOf {
    using type = uint16_t;
};
template <>
struct ElementOf<DType::float32> {
    using type = float;
};
template <DType T>
using Element = typename ElementOf<T>::type;

template <class V, DType T>
typename V::Vec load(const Element<T>* at, typename V::Mask mask) {
    if constexpr (T == DType::bfloat16) return V::load_bf16(at, mask);
    if constexpr (T == DType::float16) return V::load_f16(at, mask);
    if constexpr (T == DType::float32) return V::load(at, mask);
}

template <class V, DType T>
void store(Element<T>* at, typename V::Vec value, typename V::Mask mask) {
    if constexpr (T == DType::bfloat16) V::store_bf16(at, value, mask);
    if constexpr (T == DType::float16) V::store_f16(at, value, mask);
    if constexpr (T == DType::float32) V::store(at, value, mask);
}

// body(position, mask) over d values, d a multiple of 8.
template <class V, class Body>
inline void each_vector(int64_t d, Body body) {
    int64_t i = 0;
    for (; i + V::kWidth <= d; i += V::kWidth)
        body(i, V::kAll);
    if constexpr (V::kWidth > 8) {
        if (i < d) body(i, V::kHalf);
    }
}

// Calls body with the dtype as a compile-time constant.
template <class V, class Body>
inline void with_dtype(DType dtype, Body body) {
    switch (dtype) {
        case DType::bfloat16:
            return body.template operator()<DType::bfloat16>();
        case DType::float16:
            return body.template operator()<DType::float16>();
        case DType::float32:
            return body.template operator()<DType::float32>();
    }
}

// t[q][r] = scale * dot(A[r], x[q]) for R rows of A and Q inputs.
template <class V, DType T, int R, int Q>
void shrink(const Element<T>* a, const float* x, int64_t d_in, float scale, float (*t)[kRanks]) {
    typename V::Vec sums[Q][R];
    for (int q = 0; q < Q; ++q) {
        for (int r = 0; r < R; ++r)
            sums[q][r] = V::zero();
    }
    each_vector<V>(d_in, [&](int64_t i, typename V::Mask mask) {
        typename V::Vec inputs[Q];
        for (int q = 0; q < Q; ++q)
            inputs[q] = V::load(x + q * d_in + i, mask);
        for (int r = 0; r < R; ++r) {
            const typename V::Vec factor = load<V, T>(a + r * d_in + i, mask);
            for (int q = 0; q < Q; ++q)
                sums[q][r] = V::multiply_add(factor, inputs[q], sums[q][r]);
        }
    });
    for (int q = 0; q < Q; ++q) {
        for (int r = 0; r < R; ++r)
            t[q][r] = scale * V::sum(sums[q][r]);
    }
}

// delta[q] += sum over r of t[q][r] * B[r].
template <class V, DType T, int R, int Q>
void expand(const Element<T>* b, const float (*t)[kRanks], int64_t d_out, float* delta) {
    typename V::Vec factors[Q][R];
    for (int q = 0; q < Q; ++q) {
        for (int r = 0; r < R; ++r)
            factors[q][r] = V::broadcast(t[q][r]);
    }
    each_vector<V>(d_out, [&](int64_t j, typename V::Mask mask) {
        typename V::Vec columns[R];
        for (int r = 0; r < R; ++r)
            columns[r] = load<V, T>(b + r * d_out + j, mask);
        for (int q = 0; q < Q; ++q) {
            typename V::Vec sum = V::load(delta + q * d_out + j, mask);
            for (int r = 0; r < R; ++r)
                sum = V::multiply_add(columns[r], factors[q][r], sum);
            V::store(delta + q * d_out + j, sum, mask);
        }
    });
}

// R ranks of one expert for all rows of the tile.
template <class V, DType T, int R>
void apply_ranks(const Tile& tile, const Element<T>* a, const Element<T>* b, float scale) {
    float t[kRows][kRanks];
    int64_t q = 0;
    for (; q + kRows <= tile.rows; q += kRows) {
        shrink<V, T, R, kRows>(a, tile.inputs + q * tile.d_in, tile.d_in, scale, t);
        expand<V, T, R, kRows>(b, t, tile.d_out, tile.deltas + q * tile.d_out);
    }
    for (; q < tile.rows; ++q) {
        shrink<V, T, R, 1>(a, tile.inputs + q * tile.d_in, tile.d_in, scale, t);
        expand<V, T, R, 1>(b, t, tile.d_out, tile.deltas + q * tile.d_out);
    }
}

template <class V, DType T>
void apply_expert(const Tile& tile, int64_t expert) {
    const auto* base = reinterpret_cast<const std::byte*>(tile.base[expert]);
    const auto* a = reinterpret_cast<const Element<T>*>(base + tile.a_offset);
    const auto* b = reinterpret_cast<const Element<T>*>(base + tile.b_offset);
    const int64_t rank = tile.rank[expert];
    const float scale = tile.weight[expert] * (tile.alpha / static_cast<float>(rank));
    int64_t r = 0;
    for (; r + kRanks <= rank; r += kRanks) {
        apply_ranks<V, T, kRanks>(tile, a + r * tile.d_in, b + r * tile.d_out, scale);
    }
    a += r * tile.d_in;
    b += r * tile.d_out;
    switch (rank - r) {
        case 3:
            return apply_ranks<V, T, 3>(tile, a, b, scale);
        case 2:
            return apply_ranks<V, T, 2>(tile, a, b, scale);
        case 1:
            return apply_ranks<V, T, 1>(tile, a, b, scale);
        default:
            return;
    }
}

template <class V>
void apply_tile(const Tile& tile) {
    with_dtype<V>(tile.x_dtype, [&]<DType T>() {
        for (int64_t q = 0; q < tile.rows; ++q) {
            const auto* x = reinterpret_cast<const Element<T>*>(tile.x[q]);
            float* input = tile.inputs + q * tile.d_in;
            each_vector<V>(tile.d_in, [&](int64_t i, typename V::Mask mask) {
                V::store(input + i, load<V, T>(x + i, mask), mask);
            });
        }
    });
    each_vector<V>(tile.rows * tile.d_out,
                   [&](int64_t j, typename V::Mask mask) { V::store(tile.deltas + j, V::zero(), mask); });
    with_dtype<V>(tile.weight_dtype, [&]<DType T>() {
        for (int64_t expert = 0; expert < tile.experts; ++expert)
            apply_expert<V, T>(tile, expert);
    });
    with_dtype<V>(tile.y_dtype, [&]<DType T>() {
        for (int64_t q = 0; q < tile.rows; ++q) {
            auto* y = reinterpret_cast<Element<T>*>(tile.y[q]);
            const float* delta = tile.deltas + q * tile.d_out;
            each_vector<V>(tile.d_out, [&](int64_t j, typename V::Mask mask) {
                store<V, T>(y + j, V::add(load<V, T>(y + j, mask), V::load(delta + j, mask)), mask);
            });
        }
    });
}

}  // namespace
}  // namespace mome
