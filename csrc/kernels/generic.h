// The kernels of kernels.h, written once over a vector type V:
//
//     Vec, kWidth (8 or 16 floats), Mask, kAll, first(n) (the first n lanes; only asked for where kWidth > 8),
//     zero, broadcast, multiply_add(a, b, c) = a * b + c, add, sum(Vec) in one fixed order,
//     load / store of fp32, bf16 and fp16 under a mask (lanes outside read as 0 and are not written)
//
// Each file that includes this is compiled for its own instruction set. So everything here depends on V or has internal
// linkage, and nothing from the standard library is instantiated: the linker must never pick an AVX-512 copy of a
// function that the rest of the program shares.
//
// Accumulation order, the same however the work is cut: t[row][r] is one chain of multiply-adds over d_in in steps of
// the width, then sum(); delta[row][j] is one chain over experts in order and ranks in order. Blocks of ranks, rows and
// columns only decide how many such chains are in flight, and when a chain waits in memory for its next values.
#pragma once

#include "kernels/kernels.h"

namespace mome {
namespace {

constexpr int kRanks = 4;  // chains in flight: kRanks x kRows accumulators, kRows inputs and a factor in 16 registers
constexpr int kRows = 3;
static_assert(kRanks <= kAheadRanks);

// Values of x that are widened and used for all ranks of a block before the next ones. For many rows they stay in the
// first-level cache; for one row, this is how far ahead of their use (times kRanks rows) weights are fetched.
constexpr int64_t kInputValues = 4096;
constexpr int64_t kSpan = 1024;
constexpr int64_t kSpanStep = 32;  // a whole number of steps of every dot product: spans don't change the chains

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

// body(position, mask) over d values, d a multiple of 8, in steps of V's width (V: a vector or a dot product).
template <class V, class Body>
inline void each_vector(int64_t from, int64_t d, Body body) {
    int64_t i = from;
    for (; i + V::kWidth <= d; i += V::kWidth)
        body(i, V::kAll);
    if constexpr (V::kWidth > 8) {
        if (i < d) body(i, V::first(d - i));
    }
}

// The same, and the cache lines of `ahead` are fetched meanwhile.
template <class V, bool kFetch, int R, class Weight, class Body>
inline void each_vector_of(int64_t d, const Weight* const (&ahead)[R], Body body) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(Weight));
    int64_t i = 0;
    if constexpr (kFetch) {
        for (; i + kLine <= d; i += kLine) {
            for (int r = 0; r < R; ++r)
                __builtin_prefetch(ahead[r] + i);
            for (int64_t k = 0; k < kLine; k += V::kWidth)
                body(i + k, V::kAll);
        }
    }
    each_vector<V>(i, d, body);
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

// How A and x meet in a dot product: here, both widened to fp32.
template <class V, DType T>
struct WidenedDot {
    using Input = float;
    using Weight = Element<T>;
    using Operand = typename V::Vec;
    using Mask = typename V::Mask;
    static constexpr int kWidth = V::kWidth;
    static constexpr Mask kAll = V::kAll;

    static Mask first(int64_t n) { return V::first(n); }
    static Operand input(const Input* at, Mask mask) { return V::load(at, mask); }
    static Operand weight(const Weight* at, Mask mask) { return load<V, T>(at, mask); }
    static typename V::Vec multiply_add(Operand a, Operand b, typename V::Vec c) { return V::multiply_add(a, b, c); }
    static void gather(const std::byte* x, DType dtype, int64_t start, int64_t n, Input* inputs) {
        with_dtype<V>(dtype, [&]<DType X>() {
            const auto* values = reinterpret_cast<const Element<X>*>(x) + start;
            each_vector<V>(0, n,
                           [&](int64_t i, Mask mask) { V::store(inputs + i, load<V, X>(values + i, mask), mask); });
        });
    }
};

// sums[q * kBlockRanks + r] += a[r] * x[q], lane by lane, for R ranks and Q rows.
template <class V, class Dot, bool kFetch, int R, int Q>
void accumulate_dots(const typename Dot::Weight* const (&a)[R], const typename Dot::Weight* const (&ahead)[R],
                     const typename Dot::Input* x, int64_t x_stride, int64_t n, typename V::Vec* sums) {
    typename V::Vec chains[Q][R];
    for (int q = 0; q < Q; ++q) {
        for (int r = 0; r < R; ++r)
            chains[q][r] = sums[q * kBlockRanks + r];
    }
    each_vector_of<Dot, kFetch, R>(n, ahead, [&](int64_t i, typename Dot::Mask mask) {
        typename Dot::Operand inputs[Q];
        for (int q = 0; q < Q; ++q)
            inputs[q] = Dot::input(x + q * x_stride + i, mask);
        for (int r = 0; r < R; ++r) {
            const typename Dot::Operand factor = Dot::weight(a[r] + i, mask);
            for (int q = 0; q < Q; ++q)
                chains[q][r] = Dot::multiply_add(factor, inputs[q], chains[q][r]);
        }
    });
    for (int q = 0; q < Q; ++q) {
        for (int r = 0; r < R; ++r)
            sums[q * kBlockRanks + r] = chains[q][r];
    }
}

// Calls body<Q, kFetch>(q) for groups of rows; only the first one fetches ahead.
template <class Body>
inline void each_row_group(int64_t rows, Body body) {
    switch (rows < kRows ? rows : kRows) {
        case 1:
            return body.template operator()<1, true>(0);
        case 2:
            return body.template operator()<2, true>(0);
        default:
            body.template operator()<kRows, true>(0);
    }
    int64_t q = kRows;
    for (; q + kRows <= rows; q += kRows)
        body.template operator()<kRows, false>(q);
    if (rows - q == 2) body.template operator()<2, false>(q);
    if (rows - q == 1) body.template operator()<1, false>(q);
}

// Calls body<R>(r) for groups of ranks.
template <class Body>
inline void each_rank_group(int64_t ranks, Body body) {
    int64_t r = 0;
    for (; r + kRanks <= ranks; r += kRanks)
        body.template operator()<kRanks>(r);
    if (ranks - r == 3) body.template operator()<3>(r);
    if (ranks - r == 2) body.template operator()<2>(r);
    if (ranks - r == 1) body.template operator()<1>(r);
}
static_assert(kRanks == 4 && kRows == 3);  // the cases above

template <class V, class Dot>
void shrink_with(const ShrinkBlock& block) {
    using Weight = typename Dot::Weight;
    alignas(64) typename Dot::Input inputs[kInputValues];
    typename V::Vec sums[kTileRows * kBlockRanks];
    for (int64_t q = 0; q < block.rows; ++q) {
        for (int64_t r = 0; r < block.ranks; ++r)
            sums[q * kBlockRanks + r] = V::zero();
    }
    const int64_t fitting = kInputValues / block.rows / kSpanStep * kSpanStep;
    const int64_t span = fitting < kSpan ? fitting : kSpan;
    for (int64_t start = 0; start < block.d_in; start += span) {
        const int64_t rest = block.d_in - start;
        const int64_t n = rest < span ? rest : span;
        for (int64_t q = 0; q < block.rows; ++q)
            Dot::gather(block.x[q], block.x_dtype, start, n, inputs + q * span);
        each_rank_group(block.ranks, [&]<int R>(int64_t r) {
            // What is needed next: these values of the next ranks, or the next values of the first ranks, or the first
            // ones of the next block.
            const int64_t next_rank = r + R < block.ranks ? r + R : (rest > span ? 0 : block.ranks);
            const int64_t next_value = r + R < block.ranks ? start : (rest > span ? start + span : 0);
            const Weight *a[R], *ahead[R];
            for (int i = 0; i < R; ++i) {
                a[i] = reinterpret_cast<const Weight*>(block.a[r + i]) + start;
                ahead[i] = reinterpret_cast<const Weight*>(block.a[next_rank + i]) + next_value;
            }
            each_row_group(block.rows, [&]<int Q, bool kFetch>(int64_t q) {
                accumulate_dots<V, Dot, kFetch, R, Q>(a, ahead, inputs + q * span, span, n, sums + q * kBlockRanks + r);
            });
        });
    }
    for (int64_t q = 0; q < block.rows; ++q) {
        for (int64_t r = 0; r < block.ranks; ++r)
            block.t[q * block.t_stride + r] = block.scale[r] * V::sum(sums[q * kBlockRanks + r]);
    }
}

template <class V>
void shrink(const ShrinkBlock& block) {
    with_dtype<V>(block.weight_dtype, [&]<DType T>() { shrink_with<V, WidenedDot<V, T>>(block); });
}

// delta[q] += sum over r of t[q][r] * b[r] for R ranks and Q rows.
template <class V, DType T, bool kFetch, int R, int Q>
void accumulate_columns(const Element<T>* const (&b)[R], const Element<T>* const (&ahead)[R], const float* t,
                        int64_t t_stride, int64_t columns, float* delta) {
    typename V::Vec factors[Q][R];
    for (int q = 0; q < Q; ++q) {
        for (int r = 0; r < R; ++r)
            factors[q][r] = V::broadcast(t[q * t_stride + r]);
    }
    each_vector_of<V, kFetch, R>(columns, ahead, [&](int64_t j, typename V::Mask mask) {
        typename V::Vec sums[Q];
        for (int q = 0; q < Q; ++q)
            sums[q] = V::load(delta + q * columns + j, mask);
        for (int r = 0; r < R; ++r) {
            const typename V::Vec column = load<V, T>(b[r] + j, mask);
            for (int q = 0; q < Q; ++q)
                sums[q] = V::multiply_add(column, factors[q][r], sums[q]);
        }
        for (int q = 0; q < Q; ++q)
            V::store(delta + q * columns + j, sums[q], mask);
    });
}

template <class V>
void expand(const ExpandBlock& block) {
    with_dtype<V>(block.weight_dtype, [&]<DType T>() {
        each_rank_group(block.ranks, [&]<int R>(int64_t r) {
            const Element<T>*b[R], *ahead[R];
            for (int i = 0; i < R; ++i) {
                b[i] = reinterpret_cast<const Element<T>*>(block.b[r + i]);
                ahead[i] = reinterpret_cast<const Element<T>*>(block.b[r + R + i]);
            }
            each_row_group(block.rows, [&]<int Q, bool kFetch>(int64_t q) {
                accumulate_columns<V, T, kFetch, R, Q>(b, ahead, block.t + q * block.t_stride + r, block.t_stride,
                                                       block.columns, block.delta + q * block.columns);
            });
        });
    });
}

template <class V>
void add_to_output(const OutputBlock& block) {
    with_dtype<V>(block.y_dtype, [&]<DType T>() {
        for (int64_t q = 0; q < block.rows; ++q) {
            auto* y = reinterpret_cast<Element<T>*>(block.y[q]);
            const float* delta = block.delta + q * block.columns;
            each_vector<V>(0, block.columns, [&](int64_t j, typename V::Mask mask) {
                store<V, T>(y + j, V::add(load<V, T>(y + j, mask), V::load(delta + j, mask)), mask);
            });
        }
    });
}

template <class V>
float sum(const float* values, int64_t count) {
    constexpr int64_t kChains = 64 / V::kWidth;
    typename V::Vec sums[kChains];
    for (int k = 0; k < kChains; ++k)
        sums[k] = V::zero();
    for (int64_t i = 0; i < count; i += 64) {
        for (int k = 0; k < kChains; ++k)
            sums[k] = V::add(sums[k], V::load(values + i + k * V::kWidth, V::kAll));
    }
    float total = 0;
    for (int k = 0; k < kChains; ++k)
        total += V::sum(sums[k]);
    return total;
}

}  // namespace
}  // namespace mome
