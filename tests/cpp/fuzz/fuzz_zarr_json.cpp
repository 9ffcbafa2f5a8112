// Input: the root's zarr.json of a real store, whose path is in MOME_FUZZ_STORE. It is taken only where it says what
// the catalogue says; the state that is read is then always the same.
#include <filesystem>
#include <fstream>
#include <string>

#include "catalog/catalog.h"
#include "format/errors.h"
#include "input.h"

using namespace mome;

namespace {

const std::filesystem::path& store() {
    static const std::filesystem::path path = [] {
        const char* given = std::getenv("MOME_FUZZ_STORE");
        fuzz::require(given != nullptr, "MOME_FUZZ_STORE is set");
        return std::filesystem::path(given);
    }();
    return path;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    static const CatalogState whole = load_state(store());  // before the first input takes zarr.json's place
    std::ofstream(store() / "zarr.json", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    try {
        const CatalogState state = load_state(store());
        fuzz::require(state.commit == whole.commit && state.schema.crc == whole.schema.crc &&
                          state.key_dim == whole.key_dim && state.rows_per_shard == whole.rows_per_shard,
                      "what is read is what was committed");
    } catch (const DamagedStoreError& error) {
        fuzz::require(error.file.ends_with("zarr.json"), "an error names the file");
    } catch (const FormatVersionError& error) {
        fuzz::require(error.path.ends_with("zarr.json"), "an error names the file");
    } catch (const StoreNotFoundError&) {
    }
    return 0;
}
