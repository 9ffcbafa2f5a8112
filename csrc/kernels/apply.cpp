// Validates the arguments once, then cuts the work into blocks that the kernels of one instruction set do.
//
// Consecutive rows of one sequence are a run. For each run, the shrink fills t [rows, ranks], where the ranks are those
// of all experts of the sequence in order; then the expand adds them up. A task of the shrink is a tile of rows times a
// block of ranks; a task of the expand is a tile of rows times a block of columns and all ranks. So any number of
// threads can share even one row, and no task touches what another one of its phase writes. Tiles are the innermost
// order of the tasks: the weights of a block are in the cache when the next tile needs them.
#include "kernels/apply.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "format/errors.h"
#include "kernels/kernels.h"
#include "kernels/thread_pool.h"

namespace mome {
namespace {

void validate(const ApplyArguments& a) {
    check_shape({.y = a.y,
                 .x = a.x,
                 .last_row = a.rows.last_row(),
                 .highest_rank = a.rows.highest_rank(),
                 .a_offset = a.a_offset,
                 .b_offset = a.b_offset,
                 .weight_dtype = a.weight_dtype,
                 .accumulate = a.accumulate});
    if (a.threads < 1) throw SchemaError("threads must be at least 1");
}

// Bytes of weights times rows from which a call is shared among threads: some 80 us of one thread's work. Waking
// another one takes 5 us only where its core is idle, and in a model it seldom is: torch's own threads spin for a while
// after each product, and a worker that waits for its core is waited for.
constexpr int64_t kSharedBytes = 1024 << 10;

// How the work is cut. A thread that is late costs one task; a task's first weights are not fetched ahead.
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kTaskRanks = 2 * kBlockRanks;
constexpr int64_t kTaskBytes = 16 << 10;     // at least so many of A
constexpr int64_t kTaskColumns = 256;        // at least, where a thread could have more
constexpr int64_t kMostColumns = 1024;       // of one row, so that what is fetched ahead is not lost before its use
constexpr int64_t kDeltaValues = 8192;       // of a tile's rows and a task's columns: first-level cache
constexpr int64_t kLineValues = 32;          // a cache line of 16-bit weights belongs to one task
constexpr int64_t kScratchValues = 4 << 20;  // of t: 16 MiB

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

constexpr int64_t round_up(int64_t value, int64_t step) {
    return ceil_div(value, step) * step;
}

// A run of the routed rows, or some of its rows, as a wave does it.
struct Run : RoutedRows::Run {
    int64_t tiles = 0;
    int64_t t_offset = 0;                        // of its t [rows, ranks] in the scratch
    int64_t shrink_tasks = 0, expand_tasks = 0;  // its own and those of all runs before it
};

// Goes through the ranks of a run in order and gives the addresses of their rows of A, or of B.
class RankCursor {
  public:
    RankCursor(const RoutedRows::Tables& tables, float alpha, size_t entry, int64_t rank, int64_t offset,
               int64_t row_bytes)
        : tables_(tables), alpha_(alpha), entry_(entry), rank_(rank), offset_(offset), row_bytes_(row_bytes) {
        for (; rank_ >= tables.expert_rank[entry_]; ++entry_)
            rank_ -= tables.expert_rank[entry_];
    }

    // The next `count` ranks; scale may be null.
    void take(int64_t count, const std::byte** address, float* scale) {
        while (count > 0) {
            const int32_t ranks = tables_.expert_rank[entry_];
            const int64_t n = std::min(count, ranks - rank_);
            const std::byte* row = reinterpret_cast<const std::byte*>(tables_.expert_base[entry_]) + offset_;
            for (int64_t i = 0; i < n; ++i)
                *address++ = row + (rank_ + i) * row_bytes_;
            if (scale != nullptr) {
                const float value = tables_.expert_weight[entry_] * (alpha_ / static_cast<float>(ranks));
                scale = std::fill_n(scale, n, value);
            }
            count -= n;
            rank_ += n;
            if (rank_ == ranks) {
                ++entry_;
                rank_ = 0;
            }
        }
    }

  private:
    const RoutedRows::Tables& tables_;
    float alpha_;
    size_t entry_;
    int64_t rank_;  // within the entry
    int64_t offset_;
    int64_t row_bytes_;
};

// The ranks of a block, and those that come next in the same task (or the last one again).
struct BlockOfRanks {
    std::array<const std::byte*, kBlockRanks + kAheadRanks> address;
    std::array<float, kBlockRanks> scale;
    int64_t count;

    void take(RankCursor& cursor, int64_t left_in_task, bool with_scale) {
        count = std::min(left_in_task, kBlockRanks);
        cursor.take(count, address.data(), with_scale ? scale.data() : nullptr);
        const int64_t next = std::min(left_in_task - count, kAheadRanks);
        RankCursor(cursor).take(next, address.data() + count, nullptr);
        std::fill_n(address.data() + count + next, kAheadRanks - next, address[static_cast<size_t>(count + next - 1)]);
    }
};

// Runs whose t fits the scratch, and their tasks.
class Wave {
  public:
    Wave(const ApplyArguments& arguments, const Kernels& kernels)
        : a_(arguments), tables_(arguments.rows.tables()), kernels_(kernels) {}

    // Adds the run, or as many of its rows as there is room for; gives their number.
    int64_t add(Run run) {
        run.rows = std::min(run.rows, std::max<int64_t>(kScratchValues / run.ranks, 1));
        const int64_t values = run.rows * run.ranks;
        if (!runs_.empty() && t_values_ + values > kScratchValues) return 0;
        run.tiles = ceil_div(run.rows, kTileRows);
        run.t_offset = t_values_;
        t_values_ += values;
        runs_.push_back(run);
        return run.rows;
    }

    // Applies the runs and forgets them.
    void apply() {
        if (runs_.empty()) return;
        const int threads = choose_tasks();
        const auto t = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(t_values_));
        t_ = t.get();
        const std::array<int64_t, 2> tasks{runs_.back().shrink_tasks, runs_.back().expand_tasks};
        const auto body = [this](size_t phase, int64_t task) { phase == 0 ? shrink(task) : expand(task); };
        run_phases(threads, tasks, PhaseTask(body));
        runs_.clear();
        t_values_ = 0;
    }

  private:
    // How many threads the work is worth, and how large the tasks are.
    int choose_tasks() {
        const int64_t value_bytes = bytes_of(a_.weight_dtype);
        int64_t tile_ranks = 0, tiles = 0, tile_rows = 0;
        for (const Run& run : runs_) {
            tiles += run.tiles;
            tile_ranks += run.tiles * run.ranks;
            tile_rows = std::max(tile_rows, std::min(run.rows, kTileRows));
        }
        const int threads = t_values_ * (a_.x.columns + a_.y.columns) * value_bytes < kSharedBytes ? 1 : a_.threads;
        const int64_t wanted = threads == 1 ? 1 : threads * kTasksPerThread;
        const int64_t fewest = ceil_div(kTaskBytes, a_.x.columns * value_bytes);
        ranks_ = round_up(std::min(std::max(ceil_div(tile_ranks, wanted), fewest), kTaskRanks), kAheadRanks);
        const int64_t most = std::min(kDeltaValues / tile_rows, kMostColumns) / kLineValues * kLineValues;
        const int64_t blocks =
            std::max(ceil_div(a_.y.columns, most), std::min(ceil_div(wanted, tiles), a_.y.columns / kTaskColumns));
        columns_ = round_up(ceil_div(a_.y.columns, blocks), kLineValues);
        int64_t shrink_tasks = 0, expand_tasks = 0;
        for (Run& run : runs_) {
            run.shrink_tasks = shrink_tasks += run.tiles * ceil_div(run.ranks, ranks_);
            run.expand_tasks = expand_tasks += run.tiles * ceil_div(a_.y.columns, columns_);
        }
        return threads;
    }

    struct Place {
        const Run& run;
        size_t first_row;  // in row_index
        int64_t rows;
        int64_t t_offset;
        int64_t block;  // of ranks or columns
    };

    Place place_of(int64_t task, int64_t Run::* tasks) const {
        const auto run = std::ranges::upper_bound(runs_, task, {}, tasks);
        if (run != runs_.begin()) task -= *std::prev(run).*tasks;
        const int64_t row = task % run->tiles * kTileRows;
        return {*run, run->first + static_cast<size_t>(row), std::min(run->rows - row, kTileRows),
                run->t_offset + row * run->ranks, task / run->tiles};
    }

    static std::byte* row_of(const Matrix& matrix, int64_t row) {
        return matrix.data + row * matrix.stride * bytes_of(matrix.dtype);
    }

    void shrink(int64_t task) const {
        const Place place = place_of(task, &Run::shrink_tasks);
        ShrinkBlock block{};
        block.rows = place.rows;
        for (int64_t q = 0; q < place.rows; ++q)
            block.x[q] = row_of(a_.x, tables_.row_index[place.first_row + static_cast<size_t>(q)]);
        block.x_dtype = a_.x.dtype;
        block.weight_dtype = a_.weight_dtype;
        block.d_in = a_.x.columns;
        block.t_stride = place.run.ranks;
        int64_t rank = place.block * ranks_;
        const int64_t end = std::min(rank + ranks_, place.run.ranks);
        RankCursor cursor(tables_, a_.alpha, place.run.entry, rank, a_.a_offset,
                          a_.x.columns * bytes_of(a_.weight_dtype));
        BlockOfRanks ranks;
        for (; rank < end; rank += ranks.count) {
            ranks.take(cursor, end - rank, true);
            block.ranks = ranks.count;
            block.a = ranks.address.data();
            block.scale = ranks.scale.data();
            block.t = t_ + place.t_offset + rank;
            kernels_.shrink(block);
        }
    }

    void expand(int64_t task) const {
        const Place place = place_of(task, &Run::expand_tasks);
        const int64_t column = place.block * columns_;
        const int64_t columns = std::min(columns_, a_.y.columns - column);
        alignas(64) float delta[kDeltaValues];
        OutputBlock output{};
        output.rows = place.rows;
        for (int64_t q = 0; q < place.rows; ++q) {
            output.y[q] = row_of(a_.y, tables_.row_index[place.first_row + static_cast<size_t>(q)]) +
                          column * bytes_of(a_.y.dtype);
        }
        output.y_dtype = a_.y.dtype;
        output.columns = columns;
        output.delta = delta;
        // Where the chains start, and below where their ends go, is all that `accumulate` changes.
        const size_t row_bytes = static_cast<size_t>(columns) * sizeof(float);
        for (int64_t q = 0; q < place.rows; ++q) {
            if (a_.accumulate) {
                std::memcpy(delta + q * columns, output.y[q], row_bytes);
            } else {
                std::fill_n(delta + q * columns, columns, 0.0F);
            }
        }
        ExpandBlock block{};
        block.rows = place.rows;
        block.weight_dtype = a_.weight_dtype;
        block.columns = columns;
        block.t_stride = place.run.ranks;
        block.delta = delta;
        const int64_t value_bytes = bytes_of(a_.weight_dtype);
        RankCursor cursor(tables_, a_.alpha, place.run.entry, 0, a_.b_offset + column * value_bytes,
                          a_.y.columns * value_bytes);
        BlockOfRanks ranks;
        for (int64_t rank = 0; rank < place.run.ranks; rank += ranks.count) {
            ranks.take(cursor, place.run.ranks - rank, false);
            block.ranks = ranks.count;
            block.b = ranks.address.data();
            block.t = t_ + place.t_offset + rank;
            kernels_.expand(block);
        }
        if (!a_.accumulate) return kernels_.add_to_output(output);
        for (int64_t q = 0; q < place.rows; ++q)
            std::memcpy(output.y[q], delta + q * columns, row_bytes);
    }

    const ApplyArguments& a_;
    const RoutedRows::Tables& tables_;
    const Kernels kernels_;
    std::vector<Run> runs_;
    int64_t t_values_ = 0;
    float* t_ = nullptr;
    int64_t ranks_ = 0, columns_ = 0;  // of a task
};

}  // namespace

void apply_experts(const ApplyArguments& a, Isa isa) {
    validate(a);
    Wave wave(a, kernels_of(isa));
    for (RoutedRows::Run left : a.rows.runs()) {
        while (left.rows > 0) {
            const int64_t added = wave.add({left});
            if (added == 0) wave.apply();
            left.first += static_cast<size_t>(added);
            left.rows -= added;
        }
    }
    wave.apply();
}

}  // namespace mome
