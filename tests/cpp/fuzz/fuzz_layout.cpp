// Input: a dtype, a rank, the widths of modules, then runs of experts: what a catalogue's numbers could say. A layout
// that is made holds its sections one after the other; runs that are taken find every expert again.
#include <vector>

#include "format/errors.h"
#include "format/layout.h"
#include "input.h"
#include "io/expert_run.h"

using namespace mome;

namespace {

void check_layout(const RecordLayout& layout) {
    int64_t end = 0;
    const auto follows = [&](int64_t offset, int64_t width) {
        fuzz::require(offset >= end && offset % RecordLayout::kSectionAlignment == 0, "sections do not overlap");
        end = offset + layout.rank * width * bytes_of(layout.dtype);
    };
    for (const Section& section : layout.sections) {
        follows(section.a_offset, section.shape.d_in);
        follows(section.b_offset, section.shape.d_out);
    }
    fuzz::require(layout.payload_bytes == end, "the payload ends with the last section");
    fuzz::require(layout.record_bytes >= end + RecordLayout::kTrailerBytes &&
                      layout.record_bytes % RecordLayout::kRecordAlignment == 0,
                  "a record has room for its trailer and is aligned");
}

void check_runs(const std::vector<ExpertRun>& given) {
    const ExpertRuns runs(given, 1 << 20);
    for (int64_t position = 0; position < std::min<int64_t>(runs.count(), 64); ++position) {
        const auto expert = runs.at(position);
        fuzz::require(expert.row >= 0 && runs.position_of(expert.id) == position, "an expert is found by its id");
    }
    if (runs.count() > 0) {
        const int64_t last = runs.count() - 1;
        fuzz::require(runs.position_of(runs.at(last).id) == last, "the last expert is found by its id");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    fuzz::Input input(bytes, size);
    const auto settings = input.take<uint8_t>();
    const auto dtype = static_cast<DType>(settings % 3);
    const auto rank = input.take<int64_t>();
    std::vector<ModuleShape> modules(settings / 3 % 5);
    for (ModuleShape& shape : modules) {
        shape.d_in = input.take<int64_t>();
        shape.d_out = input.take<int64_t>();
    }
    try {
        check_layout(RecordLayout::make(modules, rank, dtype));
    } catch (const SchemaError&) {
    }
    std::vector<ExpertRun> runs(input.take<uint8_t>() % 5);
    for (ExpertRun& run : runs) {
        run.row = input.take<int64_t>();
        run.id = input.take<int64_t>();
        run.group_id = input.take<int64_t>();
        run.groups = input.take<int64_t>();
        run.per_group = input.take<int64_t>();
    }
    try {
        check_runs(runs);
    } catch (const SchemaError&) {
    }
    return 0;
}
