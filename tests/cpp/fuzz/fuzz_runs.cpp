// Input: how many rows there are, then the runs of groups and of experts in a catalogue. Runs that pass spell out
// experts and groups that are all within bounds.
#include <vector>

#include "catalog/runs.h"
#include "format/errors.h"
#include "input.h"

using namespace mome;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    fuzz::Input input(bytes, size);
    const int64_t rows = input.take<uint16_t>();
    std::vector<GroupRun> groups(input.take<uint8_t>() % 6);
    std::vector<ExpertRun> experts(input.take<uint8_t>() % 6);
    for (GroupRun& run : groups) {
        run.id = input.take<int64_t>();
        run.groups = input.take<int64_t>();
        run.mode = static_cast<Mode>(input.take<uint8_t>());
        run.activation = static_cast<Activation>(input.take<uint8_t>());
    }
    for (ExpertRun& run : experts) {
        run.row = input.take<int64_t>();
        run.id = input.take<int64_t>();
        run.group_id = input.take<int64_t>();
        run.groups = input.take<int64_t>();
        run.per_group = input.take<int64_t>();
    }
    try {
        check_runs(groups, experts, rows, "catalogue");
    } catch (const DamagedStoreError& error) {
        fuzz::require(error.file == "catalogue", "an error names the file");
        return 0;
    }
    int64_t total = 0;
    int64_t of_groups = 0;
    for (const ExpertRun& run : experts) {
        fuzz::require(run.row >= 0 && run.id >= 1 && run.group_id >= 1, "numbers count up from the first there is");
        fuzz::require(run.groups >= 1 && run.per_group >= 1, "a run is of something");
        total += run.experts();
        of_groups += run.groups;
    }
    for (const GroupRun& run : groups)
        of_groups -= run.groups;
    fuzz::require(total <= rows, "there are no more experts than rows");
    fuzz::require(of_groups == 0, "there are as many groups as have experts");
    return 0;
}
